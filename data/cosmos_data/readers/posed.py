"""Pictures with their poses as programs that reconstruct scenes write them, before the pictures are looked at."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Convention
from cosmos_data.readers.found import FoundCamera

UNDISTORT = "undistort the pictures (colmap image_undistorter) and build from what that writes"


@dataclass(frozen=True, kw_only=True, slots=True)
class PosedPicture:
    """One picture, as a file of poses has it."""

    name: str
    """Its path, as the file says it."""

    intrinsics_px: tuple[float, float, float, float]
    """fx, fy, cx, cy."""

    size_px: tuple[int, int] | None
    """Height and width that these refer to; None: not said."""

    matrix_34: np.ndarray
    """[R | t]"""


def camera_of(pictures: list[PosedPicture], convention: Convention, where: str) -> FoundCamera:
    """Return the camera of a sequence of pictures.

    Raises:
        DataError: they are said to be of several sizes.
    """
    sizes = {picture.size_px for picture in pictures}
    if len(sizes) > 1:
        raise DataError(f"{where} says pictures of several sizes, {sorted(map(str, sizes))}; a video has one")
    intrinsics_T4 = np.array([picture.intrinsics_px for picture in pictures])
    if (intrinsics_T4 == intrinsics_T4[0]).all():
        intrinsics_T4 = intrinsics_T4[:1]
    return FoundCamera(
        where=where,
        convention=convention,
        intrinsics=tuple(intrinsics_T4.ravel().tolist()),
        extrinsics=tuple(np.stack([picture.matrix_34 for picture in pictures]).ravel().tolist()),
        size_px=sizes.pop(),
    )


def in_order(pictures: list[PosedPicture]) -> list[PosedPicture]:
    """Sort by name, numbers by their value: files are written in the order in which pictures were registered."""
    return sorted(pictures, key=lambda picture: natural_key(picture.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key that sorts frame_9 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def folder_of(picture: PosedPicture) -> str:
    """The folder in a picture's name, which tells cameras apart that a reconstruction has together."""
    return PurePosixPath(picture.name).parent.as_posix()


def refuse_distortion(model: str, parameters: Mapping[str, float], where: str) -> None:
    """Refuse a lens that bends straight lines, for a camera of a manifest has none.

    Raises:
        DataError: one of the parameters is not 0.
    """
    bent = {name: value for name, value in parameters.items() if value}
    if bent:
        said = ", ".join(f"{name}={value:g}" for name, value in bent.items())
        raise DataError(f"{where} has a camera {model} with distortion ({said}), which is not read; {UNDISTORT}")
