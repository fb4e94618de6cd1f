"""Poses as lines of numbers in a text beside a video, told from captions by what stands in them.

RealEstate10K: an address, then for each frame 19 numbers: time in microseconds, fx fy cx cy divided by the picture's
width and height, two zeros (distortion), and the three rows of the world-to-camera matrix [R | t] in OpenCV axes, of a
scale of its own. Cosmos: for each frame 11 numbers: fx fy cx cy in pixels of the video, then the world-to-camera
quaternion x y z w and translation, in OpenCV axes, metres.
"""

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.geometry.rotations import from_quaternion
from cosmos_data.readers.found import FoundCamera

REALESTATE10K, COSMOS = 19, 11
"""Numbers of a line."""


def camera_of_text(content: bytes, where: str) -> FoundCamera | None:
    """Return the poses that a text holds; None where it is another text, such as a caption.

    where: the file, for people.

    Raises:
        DataError: its lines are of one of these layouts, and one is wrong.
    """
    rows = _numbers(content)
    if rows is None:
        return None
    counts = [len(row) for row in rows]
    width = max(set(counts), key=counts.count)
    if width not in (REALESTATE10K, COSMOS):
        return None
    for line, count in enumerate(counts, start=1):
        if count != width:
            raise DataError(f"{where}: pose {line} has {count} numbers, the others {width}; correct it")
    values_TN = np.array(rows)
    return _realestate10k(values_TN, where) if width == REALESTATE10K else _cosmos(values_TN, where)


def _numbers(content: bytes) -> list[list[float]] | None:
    """Return the numbers of each line; None where a line but the first, which may be an address, holds something else,
    or there are none."""
    try:
        lines = [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        return None
    if lines and "://" in lines[0]:
        lines = lines[1:]
    try:
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in lines]
    except ValueError:
        return None
    return rows or None


def _realestate10k(values_TN: np.ndarray, where: str) -> FoundCamera:
    bent = np.flatnonzero(values_TN[:, 5:7].any(axis=1))
    if len(bent):
        raise DataError(f"{where}: pose {bent[0] + 1} has distortion {values_TN[bent[0], 5:7].tolist()}; undistort it")
    if values_TN[:, 1:5].max() > 10:
        raise DataError(
            f"{where} has the layout of RealEstate10K, whose intrinsics are divided by the picture's width and height,"
            f" and fx is {values_TN[0, 1]:g}; divide them"
        )
    return FoundCamera(
        where=where,
        convention="world_to_camera_opencv",
        intrinsics=tuple(values_TN[:, 1:5].ravel().tolist()),
        extrinsics=tuple(values_TN[:, 7:].ravel().tolist()),
        is_relative=True,
        times_sec=tuple((values_TN[:, 0] / 1e6).tolist()),
    )


def _cosmos(values_TN: np.ndarray, where: str) -> FoundCamera:
    try:
        rotations_T33 = from_quaternion(values_TN[:, 4:8], "xyzw")
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    matrices_T34 = np.concatenate([rotations_T33, values_TN[:, 8:, None]], axis=2)
    return FoundCamera(
        where=where,
        convention="world_to_camera_opencv",
        intrinsics=tuple(values_TN[:, :4].ravel().tolist()),
        extrinsics=tuple(matrices_T34.ravel().tolist()),
    )
