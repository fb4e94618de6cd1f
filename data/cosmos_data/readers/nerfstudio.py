"""transforms.json of nerfstudio, instant-ngp and DL3DV: camera-to-world poses in OpenGL axes, intrinsics in pixels.

Intrinsics stand once in the file or in each frame: fl_x, fl_y, cx, cy, in pixels of a picture of w x h; of instant-ngp
also camera_angle_x in rad. The world's axes are of no matter, so `applied_transform` and scale are passed over.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.rows import json_object
from cosmos_data.readers.found import UNDISTORT
from cosmos_data.readers.posed import PosedPicture, bend_px, lens_of

RADIAL, TANGENTIAL = ("k1", "k2", "k3", "k4"), ("p1", "p2")
MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
"""With little distortion they are one: a pinhole."""


def read_transforms(content: bytes, where: str) -> list[PosedPicture]:
    """Return the pictures of a transforms.json as it lists them.

    where: the file, for people.

    Raises:
        DataError: it names what is missing, wrong, or a lens of another kind.
    """
    try:
        values = json_object(content)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    frames = values.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise DataError(f"{where} has no list `frames` of objects; fetch it again")
    return [_picture({**values, **frame}, f"{where}, frame {number}") for number, frame in enumerate(frames)]


def _picture(values: Mapping[str, Any], where: str) -> PosedPicture:
    model = values.get("camera_model", "PINHOLE")
    if model not in MODELS:
        raise DataError(f"{where} has a camera {model}; {', '.join(MODELS)} are read: {UNDISTORT}")
    distortion = {name: _number(values, name, where) for name in (*RADIAL, *TANGENTIAL) if name in values}
    name = values.get("file_path")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where} has no file_path")
    try:
        matrix = np.array(values.get("transform_matrix"), dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: transform_matrix holds something else than numbers") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise DataError(f"{where} has no transform_matrix of 4x4 numbers")
    size_px = None
    if "w" in values and "h" in values:
        size_px = int(_number(values, "h", where)), int(_number(values, "w", where))
        if min(size_px) < 1:
            raise DataError(f"{where}: w={values['w']!r} and h={values['h']!r} are no size")
    intrinsics_px = _intrinsics(values, size_px, where)
    return PosedPicture(
        name=name.removeprefix("./"),
        intrinsics_px=intrinsics_px,
        size_px=size_px,
        matrix_34=matrix[:3],
        bend_px=bend_px(
            intrinsics_px,
            size_px,
            radial=[distortion.get(name, 0.0) for name in RADIAL],
            tangential=(distortion.get("p1", 0.0), distortion.get("p2", 0.0)),
        ),
        lens=lens_of(str(model), distortion),
    )


def _intrinsics(
    values: Mapping[str, Any], size_px: tuple[int, int] | None, where: str
) -> tuple[float, float, float, float]:
    if "fl_x" in values:
        fx = _number(values, "fl_x", where)
    elif "camera_angle_x" in values and size_px:
        fx = size_px[1] / (2 * math.tan(_number(values, "camera_angle_x", where) / 2))
    else:
        raise DataError(f"{where} has neither fl_x nor camera_angle_x with w and h; give the focal length in pixels")
    fy = _number(values, "fl_y", where) if "fl_y" in values else fx
    if "cx" in values and "cy" in values:
        return fx, fy, _number(values, "cx", where), _number(values, "cy", where)
    if size_px is None:
        raise DataError(f"{where} has neither cx and cy nor w and h; give the principal point in pixels")
    return fx, fy, size_px[1] / 2, size_px[0] / 2


def _number(values: Mapping[str, Any], key: str, where: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: {key}={value!r} is no number")
    return float(value)
