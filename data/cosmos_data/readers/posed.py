"""Pictures with their poses as programs that reconstruct scenes write them, before the pictures are looked at."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Convention
from cosmos_data.readers.found import FoundCamera

GRID_POINTS = 33
"""A lens is tried at so many points along each side of the picture, its corners among them."""


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

    bend_px: float = 0.0
    lens: str = ""
    """As a `FoundCamera` has them."""


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
    most_bent = max(pictures, key=lambda picture: picture.bend_px)
    return FoundCamera(
        where=where,
        convention=convention,
        intrinsics=tuple(intrinsics_T4.ravel().tolist()),
        extrinsics=tuple(np.stack([picture.matrix_34 for picture in pictures]).ravel().tolist()),
        size_px=sizes.pop(),
        bend_px=most_bent.bend_px,
        lens=most_bent.lens,
    )


def in_order(pictures: list[PosedPicture]) -> list[PosedPicture]:
    """Sort by name, numbers by their value: files are written in the order in which pictures were registered."""
    return sorted(pictures, key=lambda picture: natural_key(picture.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts frame_9 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def folder_of(picture: PosedPicture) -> str:
    """Return the folder in a picture's name, which tells cameras apart that a reconstruction has together."""
    return PurePosixPath(picture.name).parent.as_posix()


def bend_px(
    intrinsics_px: tuple[float, float, float, float],
    size_px: tuple[int, int] | None,
    *,
    radial: Sequence[float] = (),
    divided_by: Sequence[float] = (),
    tangential: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Return by how many pixels a lens moves a point of the picture at most from where its pinhole has it.

    The lens is OpenCV's (https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html): with x, y = the point over its depth
    and r2 = x^2 + y^2, x becomes x (1 + k1 r2 + k2 r2^2 + ...) / (1 + k4 r2 + ...) + 2 p1 x y + p2 (r2 + 2 x^2), and y
    likewise with p1 and p2 exchanged.

    Args:
        intrinsics_px: fx, fy, cx, cy.
        size_px: height and width of the picture; None: its middle is (cx, cy).
        radial: k1, k2, k3 ...
        divided_by: the coefficients below the fraction, likewise.
        tangential: p1, p2.
    """
    if not any((*radial, *divided_by, *tangential)):
        return 0.0
    fx, fy, cx, cy = intrinsics_px
    height_px, width_px = size_px or (2 * cy, 2 * cx)
    with np.errstate(all="ignore"):  # a focal length of 0, which is refused elsewhere, gives no number
        x = (np.linspace(0, width_px, GRID_POINTS)[None] - cx) / fx
        y = (np.linspace(0, height_px, GRID_POINTS)[:, None] - cy) / fy
        r2 = x**2 + y**2
        bent = _series(r2, radial) / _series(r2, divided_by) - 1
        p1, p2 = tangential
        right = fx * (x * bent + 2 * p1 * x * y + p2 * (r2 + 2 * x**2))
        down = fy * (y * bent + 2 * p2 * x * y + p1 * (r2 + 2 * y**2))
        return float(np.hypot(right, down).max())


def _series(r2: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """Return 1 + k1 r2 + k2 r2^2 + ..."""
    terms = [coefficient * r2**power for power, coefficient in enumerate(coefficients, start=1)]
    return np.ones_like(r2) + sum(terms)


def lens_of(model: str, parameters: Mapping[str, float]) -> str:
    """Return the words for a lens: its model, and those of its distortion's numbers that are not 0."""
    said = ", ".join(f"{name}={value:g}" for name, value in parameters.items() if value)
    return f"a camera {model} with distortion ({said})" if said else f"a camera {model}"
