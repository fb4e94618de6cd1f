"""The module turns rotation matrices into the other forms that files hold, and back.

R is float64 [N, 3, 3] and rotates column vectors: v' = R v. Euler orders have SciPy's names: `xyz` in small letters
turns about fixed axes, first x, then y, then z, so R = Rz Ry Rx, which is roll, pitch and yaw of robots (Bridge);
`XYZ` in capitals turns about the axes that turn along, so R = Rx Ry Rz. Angles stand in the order of the letters.
"""

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from cosmos_data.errors import DataError

EulerOrder = Literal["xyz", "xzy", "yxz", "yzx", "zxy", "zyx", "XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX"]
QuaternionOrder = Literal["wxyz", "xyzw"]

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest entry of |R R^T - 1|: poses are often stored as fp16 or as printed decimals."""

GIMBAL_LOCK = 1e-9
"""Cosine of the middle angle below which the first and the last one turn about one axis."""


def rotation_faults(what: str, rotations_N33: np.ndarray, unit: str) -> Iterator[str]:
    """Yield what is wrong with the first matrix that is no rotation; `unit` says what is counted: frame, step. What is
    not finite is another fault, and passed over here."""
    finite = np.asarray(np.isfinite(rotations_N33).all(axis=(1, 2)))
    matrices = np.where(finite[:, None, None], rotations_N33, np.eye(3))
    error_N: np.ndarray = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0)
    bad = np.flatnonzero((error_N > ORTHONORMAL_TOLERANCE) | (np.linalg.det(matrices) < 0))
    if len(bad):
        error = float(error_N[bad[0]])
        kind = "a mirror image" if error <= ORTHONORMAL_TOLERANCE else f"off by {error:.2g}"
        yield f"{what}: the matrix at {unit} {bad[0]} is no rotation ({kind}), {len(bad)} of {len(matrices)} in all"


def from_euler(angles_rad_N3: np.ndarray, order: EulerOrder) -> np.ndarray:
    """Return R of angles in the order of the letters."""
    _demand_order(order)
    first, middle, last = (
        _about_axis("xyz".index(letter.lower()), angles_rad_N3[:, place]) for place, letter in enumerate(order)
    )
    return first @ middle @ last if order.isupper() else last @ middle @ first


def to_euler(rotations_N33: np.ndarray, order: EulerOrder) -> np.ndarray:
    """Return the angles in rad, the middle one within a quarter turn. Where it is a quarter turn the others are not
    unique: the one whose matrix stands at the right end of the product is 0 then."""
    _demand_order(order)
    i, j, k = ("xyz".index(letter.lower()) for letter in order)
    if order.islower():  # about fixed axes: the same product, read from its end
        i, k = k, i
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    R = rotations_N33
    middle = np.arctan2(sign * R[:, i, k], np.hypot(R[:, i, i], R[:, i, j]))
    is_locked = np.hypot(R[:, i, i], R[:, i, j]) < GIMBAL_LOCK
    first = np.arctan2(
        np.where(is_locked, sign * R[:, k, j], -sign * R[:, j, k]), np.where(is_locked, R[:, j, j], R[:, k, k])
    )
    last = np.where(is_locked, 0.0, np.arctan2(-sign * R[:, i, j], R[:, i, i]))
    angles = (first, middle, last) if order.isupper() else (last, middle, first)
    return np.stack(angles, axis=-1)


def from_quaternion(quaternions_N4: np.ndarray, order: QuaternionOrder) -> np.ndarray:
    """Return R of quaternions of any length but 0.

    Raises:
        DataError: one is zero or not finite.
    """
    _demand_order(order, QuaternionOrder)
    length_N1 = np.linalg.norm(quaternions_N4, axis=-1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length_N1[:, 0]) & (length_N1[:, 0] > 0)))
    if len(bad):
        raise DataError(f"the quaternion at {bad[0]} is {quaternions_N4[bad[0]].tolist()}; use finite ones, not zero")
    w, x, y, z = (quaternions_N4 / length_N1)[:, [order.index(letter) for letter in "wxyz"]].T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def to_quaternion(rotations_N33: np.ndarray, order: QuaternionOrder) -> np.ndarray:
    """Return quaternions of length 1 with w >= 0: of the two that mean one rotation."""
    _demand_order(order, QuaternionOrder)
    R = rotations_N33
    # The squares of w, x, y, z times 4: the largest of them is divided by, so that nothing is lost near 0.
    xx, yy, zz = R[:, 0, 0], R[:, 1, 1], R[:, 2, 2]
    squares_N4 = np.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], axis=-1)
    a, b, c = R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]
    d, e, f = R[:, 0, 1] + R[:, 1, 0], R[:, 0, 2] + R[:, 2, 0], R[:, 1, 2] + R[:, 2, 1]
    products_44N = np.array(
        [
            [squares_N4[:, 0], a, b, c],
            [a, squares_N4[:, 1], d, e],
            [b, d, squares_N4[:, 2], f],
            [c, e, f, squares_N4[:, 3]],
        ]
    )
    wxyz_N4 = products_44N[squares_N4.argmax(axis=-1), :, np.arange(len(R))]
    wxyz_N4 = wxyz_N4 / np.linalg.norm(wxyz_N4, axis=-1, keepdims=True)
    wxyz_N4 = np.where(wxyz_N4[:, :1] < 0, -wxyz_N4, wxyz_N4)
    return wxyz_N4[:, ["wxyz".index(letter) for letter in order]]


def from_rot6d(columns_N6: np.ndarray) -> np.ndarray:
    """Return R of its first two COLUMNS, one after the other, made orthonormal (arXiv 1812.07035, eq. 15).

    Raises:
        DataError: the two have one direction, or are zero or not finite.
    """
    first = _unit(columns_N6[:, :3])
    second = columns_N6[:, 3:] - (first * columns_N6[:, 3:]).sum(axis=-1, keepdims=True) * first
    second = _unit(second)
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def to_rot6d(rotations_N33: np.ndarray) -> np.ndarray:
    """Return the first two columns, [N, 6]."""
    return rotations_N33[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)


def angle_between_rad(left_N33: np.ndarray, right_N33: np.ndarray) -> np.ndarray:
    """Return by how much the two differ, 0 to pi each: [N]."""
    turned = np.swapaxes(left_N33, -1, -2) @ right_N33
    # The chord |R - 1| is exact near 0, where the cosine of the trace is not: |R - 1|^2 = 8 sin^2(angle / 2).
    chord = np.linalg.norm(turned - np.eye(3), axis=(-2, -1)) / np.sqrt(8)
    return 2 * np.arcsin(np.clip(chord, 0, 1))


def _about_axis(axis: int, angle_rad_N: np.ndarray) -> np.ndarray:
    rotations = np.zeros((len(angle_rad_N), 3, 3))
    after, before = (axis + 1) % 3, (axis + 2) % 3
    rotations[:, axis, axis] = 1
    rotations[:, after, after] = rotations[:, before, before] = np.cos(angle_rad_N)
    rotations[:, before, after] = np.sin(angle_rad_N)
    rotations[:, after, before] = -np.sin(angle_rad_N)
    return rotations


def _unit(vectors_N3: np.ndarray) -> np.ndarray:
    length_N1 = np.linalg.norm(vectors_N3, axis=-1, keepdims=True)
    bad = np.flatnonzero(~(length_N1[:, 0] > 1e-8) | ~np.isfinite(length_N1[:, 0]))
    if len(bad):
        raise DataError(f"the six numbers at {bad[0]} are no two columns of a rotation; give two that differ, not zero")
    return vectors_N3 / length_N1


def _demand_order(order: str, orders: object = EulerOrder) -> None:
    if order not in get_args(orders):
        raise DataError(f"order {order!r} of a rotation is none of {', '.join(get_args(orders))}")
