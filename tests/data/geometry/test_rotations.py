"""Each form goes there and back, against values worked out by hand where a sign or an order could be mistaken."""

from typing import get_args

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.geometry.rotations import (
    EulerOrder,
    angle_between_rad,
    from_euler,
    from_quaternion,
    from_rot6d,
    rotation_faults,
    to_euler,
    to_quaternion,
    to_rot6d,
)

QUARTER = np.pi / 2
ABOUT_X = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
ABOUT_Z = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
"""Quarter turns: about z, x becomes y."""


def random_rotations(count: int = 200) -> np.ndarray:
    """Of normal quaternions, which is uniform; half turns about each axis among them."""
    quaternions_N4 = np.random.default_rng(0).normal(size=(count, 4))
    return from_quaternion(np.concatenate([quaternions_N4, np.eye(4)]), "wxyz")


def test_euler_orders_are_those_of_their_names():
    roll_pitch_yaw = np.array([[QUARTER, 0, QUARTER]])
    assert np.allclose(from_euler(roll_pitch_yaw, "xyz"), ABOUT_Z @ ABOUT_X)  # Bridge: R = Rz Ry Rx
    assert np.allclose(from_euler(roll_pitch_yaw, "XYZ"), ABOUT_X @ ABOUT_Z)
    assert np.allclose(from_euler(roll_pitch_yaw[:, ::-1], "ZYX"), ABOUT_Z @ ABOUT_X)


@pytest.mark.parametrize("order", get_args(EulerOrder))
def test_euler_angles_go_there_and_back(order):
    rotations = random_rotations()
    assert np.abs(from_euler(to_euler(rotations, order), order) - rotations).max() < 1e-12
    angles = np.random.default_rng(1).uniform(-1.5, 1.5, (200, 3))
    assert np.abs(to_euler(from_euler(angles, order), order) - angles).max() < 1e-9


@pytest.mark.parametrize("order", get_args(EulerOrder))
@pytest.mark.parametrize("middle", [QUARTER, -QUARTER])
def test_euler_angles_of_a_gimbal_lock_give_the_same_rotation(order, middle):
    rotations = from_euler(np.array([[0.3, middle, -1.1]]), order)
    angles = to_euler(rotations, order)
    assert np.abs(from_euler(angles, order) - rotations).max() < 1e-9
    assert angles[0, 0 if order.islower() else 2] == 0


@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_quaternions_go_there_and_back(order):
    rotations = random_rotations()
    quaternions = to_quaternion(rotations, order)
    assert np.abs(from_quaternion(quaternions, order) - rotations).max() < 1e-12
    assert np.abs(from_quaternion(-3 * quaternions, order) - rotations).max() < 1e-12
    assert (quaternions[:, order.index("w")] >= 0).all()


def test_the_order_of_a_quaternion_tells_two_rotations_apart():
    half = np.sqrt(0.5)
    assert np.allclose(from_quaternion(np.array([[half, 0, 0, half]]), "wxyz"), ABOUT_Z)
    assert np.allclose(from_quaternion(np.array([[half, 0, 0, half]]), "xyzw"), ABOUT_X)


def test_rot6d_holds_columns_and_rows_would_turn_the_other_way():
    rotations = random_rotations()
    assert to_rot6d(ABOUT_Z[None]).tolist() == [[0, 1, 0, -1, 0, 0]]
    assert np.abs(from_rot6d(to_rot6d(rotations)) - rotations).max() < 1e-12
    rows = rotations[:, :2].reshape(-1, 6)
    assert np.allclose(from_rot6d(rows), rotations.transpose(0, 2, 1))
    assert np.median(angle_between_rad(from_rot6d(rows), rotations)) > 1


def test_rot6d_is_made_orthonormal():
    loose = to_rot6d(random_rotations()) * 2 + np.random.default_rng(2).normal(size=(204, 6)) * 1e-2
    rotations = from_rot6d(loose)
    assert not list(rotation_faults("rot6d", rotations, "step"))
    assert angle_between_rad(rotations, random_rotations()).max() < 0.05


def test_angles_between_are_exact_near_nothing_and_near_a_half_turn():
    angles = np.array([0.0, 1e-9, 1.0, np.pi])
    turned = from_euler(np.stack([angles, 0 * angles, 0 * angles], axis=-1), "xyz")
    assert np.abs(angle_between_rad(np.eye(3)[None], turned) - angles).max() < 1e-7
    assert angle_between_rad(np.eye(3)[None], turned)[1] == pytest.approx(1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: from_quaternion(np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]]), "wxyz"), "the quaternion at 1 is"),
        (lambda: from_quaternion(np.array([[np.nan, 0, 0, 0]]), "wxyz"), "use finite ones"),
        (lambda: from_quaternion(np.eye(4), "xwyz"), "order 'xwyz' of a rotation is none of wxyz, xyzw"),
        (lambda: from_rot6d(np.array([[1.0, 0, 0, 2.0, 0, 0]])), "at 0 are no two columns"),
        (lambda: from_rot6d(np.full((1, 6), np.nan)), "at 0 are no two columns"),
        (lambda: to_euler(np.eye(3)[None], "rpy"), "order 'rpy' of a rotation is none of xyz"),
        (lambda: from_euler(np.zeros((1, 3)), "xyx"), "order 'xyx'"),
    ],
)
def test_what_is_no_rotation_is_refused(make, words):
    with pytest.raises(DataError, match=words):
        make()
