"""A model of COLMAP, text or binary: cameras and images; world-to-camera poses in OpenCV axes.

Pixels are counted as here: the centre of the first one is at (0.5, 0.5). Points and observations are passed over.
The layouts are those of COLMAP's documentation (https://colmap.github.io/format.html).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.geometry.rotations import from_quaternion
from cosmos_data.readers.found import UNDISTORT
from cosmos_data.readers.posed import PosedPicture, bend_px, lens_of

# Name -> what its parameters are, in the order of the models' numbers in binary files.
MODELS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "FOV": "fx fy cx cy omega",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1",
}
BENT_ALWAYS = ("OPENCV_FISHEYE", "FOV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE")
"""They bend straight lines whatever their parameters are."""

POINT_BYTES = 24
"""x, y and the number of the 3D point of an observation."""


@dataclass(frozen=True, slots=True)
class _Lens:
    intrinsics_px: tuple[float, float, float, float]
    size_px: tuple[int, int]
    bend_px: float
    said: str


def read_model(cameras: bytes, images: bytes, where: str, *, is_binary: bool) -> list[PosedPicture]:
    """Return the registered pictures, in the file's order.

    where: the model, for people.

    Raises:
        DataError: a file is damaged, or a lens is none that is read.
    """
    try:
        lenses = dict(_binary_cameras(cameras, where) if is_binary else _text_cameras(cameras, where))
        pictures = list(_binary_images(images) if is_binary else _text_images(images))
    except (struct.error, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is no model of COLMAP that can be read ({error}); export it again") from error
    if not pictures:
        raise DataError(f"{where} has no registered picture")
    rotations_N33 = from_quaternion(np.array([one.quaternion_wxyz for one in pictures]), "wxyz")
    posed = []
    for one, rotation_33 in zip(pictures, rotations_N33, strict=True):
        if one.camera_id not in lenses:
            raise DataError(f"{where}: picture {one.name} has camera {one.camera_id}, which cameras lacks")
        lens = lenses[one.camera_id]
        matrix_34 = np.concatenate([rotation_33, np.array(one.translation)[:, None]], axis=1)
        posed.append(
            PosedPicture(
                name=one.name,
                intrinsics_px=lens.intrinsics_px,
                size_px=lens.size_px,
                matrix_34=matrix_34,
                bend_px=lens.bend_px,
                lens=lens.said,
            )
        )
    return posed


@dataclass(frozen=True, slots=True)
class _Registered:
    """An image of the model."""

    name: str
    camera_id: int
    quaternion_wxyz: tuple[float, ...]
    translation: tuple[float, ...]


def _lens(model: str, height_px: int, width_px: int, parameters: list[float], where: str) -> _Lens:
    if model not in MODELS or model in BENT_ALWAYS:
        raise DataError(f"{where} has a camera {model}, which is no pinhole and not read; {UNDISTORT}")
    if height_px < 1 or width_px < 1:
        raise DataError(f"{where} has a camera of {width_px}x{height_px} px; export it again")
    names = MODELS[model].split()
    if len(parameters) != len(names):
        raise DataError(f"{where}: a camera {model} has {len(parameters)} parameters; {MODELS[model]} are needed")
    said = dict(zip(names, parameters, strict=True))
    cx, cy = said.pop("cx"), said.pop("cy")
    fx = said.pop("f") if "f" in said else said.pop("fx")
    fy = said.pop("fy", fx)
    bent_px = bend_px(
        (fx, fy, cx, cy),
        (height_px, width_px),
        radial=[said.get("k", said.get("k1", 0.0)), said.get("k2", 0.0), said.get("k3", 0.0)],
        divided_by=[said.get(name, 0.0) for name in ("k4", "k5", "k6")],
        tangential=(said.get("p1", 0.0), said.get("p2", 0.0)),
    )
    return _Lens((fx, fy, cx, cy), (height_px, width_px), bent_px, lens_of(model, said))


def _text_cameras(content: bytes, where: str) -> Iterator[tuple[int, _Lens]]:
    for line in _lines(content):
        words = line.split()
        if words:
            number, model, width_px, height_px = int(words[0]), words[1], int(words[2]), int(words[3])
            yield number, _lens(model, height_px, width_px, [float(word) for word in words[4:]], where)


def _text_images(content: bytes) -> Iterator[_Registered]:
    """Yield the first of the two lines of each picture; the other, of its observations, may be empty."""
    lines = list(_lines(content))
    while lines and not lines[0].strip():
        lines.pop(0)
    for line in lines[::2]:
        if line.strip():
            words = line.split(maxsplit=9)
            numbers = [float(word) for word in words[1:8]]
            yield _Registered(words[9].strip(), int(words[8]), tuple(numbers[:4]), tuple(numbers[4:]))


def _lines(content: bytes) -> Iterator[str]:
    return (line for line in content.decode("utf-8").splitlines() if not line.startswith("#"))


def _binary_cameras(content: bytes, where: str) -> Iterator[tuple[int, _Lens]]:
    names = list(MODELS)
    [count], place = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        number, model_id, width_px, height_px = struct.unpack_from("<IiQQ", content, place)
        place += 24
        if not 0 <= model_id < len(names):
            raise DataError(f"{where} has a camera of model number {model_id}, which is not read; {UNDISTORT}")
        num_parameters = len(MODELS[names[model_id]].split())
        parameters = struct.unpack_from(f"<{num_parameters}d", content, place)
        place += 8 * num_parameters
        yield number, _lens(names[model_id], height_px, width_px, list(parameters), where)


def _binary_images(content: bytes) -> Iterator[_Registered]:
    [count], place = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        _, *pose, camera_id = struct.unpack_from("<I7dI", content, place)
        place += 64
        end = content.index(b"\0", place)
        name = content[place:end].decode("utf-8")
        [num_points] = struct.unpack_from("<Q", content, end + 1)
        place = end + 9 + POINT_BYTES * num_points
        if place > len(content):
            raise ValueError(f"the observations of {name} are cut off")
        yield _Registered(name, camera_id, tuple(pose[:4]), tuple(pose[4:]))
