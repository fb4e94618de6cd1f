"""How far points that were matched in two pictures lie from where the poses let them be: the proof of a convention.

A match fits where some depth in front of both cameras explains it. Its residual is the Sampson error, the first-order
distance in pixels from the epipolar constraint (Hartley and Zisserman, Multiple View Geometry, 2nd ed., 11.4.3). A
match that only a depth behind a camera explains has the distance from the point at infinity instead, so a
translation with the wrong sign, which has the same epipolar lines, does not fit; nor does one where nothing moved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cosmos_data.geometry.poses import FLIP_Y_AND_Z, inverse_of, to_44

AnyConvention = Literal[
    "world_to_camera_opencv", "camera_to_world_opencv", "camera_to_world_opengl", "world_to_camera_opengl"
]
"""Those of a manifest, and the fourth, which files may have and a manifest does not."""

_EACH = np.eye(4)
_BOTH = np.array([[1.0, 1.0, 0.0, 0.0]])
DIRECTIONS = np.concatenate([_EACH, -_EACH, _BOTH, -_BOTH])
"""In which a search changes the logarithms of fx and fy, and cx and cy in shares of the picture: each, and the focal
lengths together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Points that are seen in two frames of a clip each; N of them, of any pairs of frames."""

    first_frame_N: np.ndarray
    second_frame_N: np.ndarray
    first_px_N2: np.ndarray
    """Right and down from the upper left corner; the centre of the first pixel is at (0.5, 0.5)."""

    second_px_N2: np.ndarray

    def __len__(self) -> int:
        return len(self.first_frame_N)


def poses_by_convention(extrinsics_T34: np.ndarray) -> dict[AnyConvention, np.ndarray]:
    """Return camera-to-world poses [T, 4, 4] in OpenCV axes for each thing that the matrices may mean."""
    matrices_T44 = to_44(extrinsics_T34)
    inverse_T44 = inverse_of(matrices_T44)
    poses: dict[AnyConvention, np.ndarray] = {
        "world_to_camera_opencv": inverse_T44,
        "camera_to_world_opencv": matrices_T44,
        "camera_to_world_opengl": matrices_T44 @ FLIP_Y_AND_Z,
        "world_to_camera_opengl": inverse_T44 @ FLIP_Y_AND_Z,
    }
    assert set(poses) == set(get_args(AnyConvention))
    return poses


def residuals_px(matches: Matches, poses_T44: np.ndarray, intrinsics_T4: np.ndarray) -> np.ndarray:
    """Return the residual of each match, [N], in pixels of the picture that the intrinsics are of.

    poses_T44: camera to world, OpenCV axes.
    """
    relative_N44 = inverse_of(poses_T44[matches.second_frame_N]) @ poses_T44[matches.first_frame_N]
    first_N4, second_N4 = intrinsics_T4[matches.first_frame_N], intrinsics_T4[matches.second_frame_N]
    first_ray_N3, second_ray_N3 = _rays(matches.first_px_N2, first_N4), _rays(matches.second_px_N2, second_N4)
    turned_N3 = np.einsum("nij,nj->ni", relative_N44[:, :3, :3], first_ray_N3)
    translation_N3 = relative_N44[:, :3, 3]
    # E x1 and E^T x2 of E = [t] R.
    line_in_second_N3 = np.cross(translation_N3, turned_N3)
    back_N3 = np.cross(second_ray_N3, translation_N3)
    line_in_first_N3 = np.einsum("nij,ni->nj", relative_N44[:, :3, :3], back_N3)
    gradients_N4 = np.concatenate(
        [line_in_second_N3[:, :2] / second_N4[:, :2], line_in_first_N3[:, :2] / first_N4[:, :2]], axis=1
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        sampson_N = np.abs((second_ray_N3 * line_in_second_N3).sum(axis=1)) / np.linalg.norm(gradients_N4, axis=1)
        # x2 x (R x1 + inverse_depth t) = 0, solved for the inverse of the depth.
        off_N3 = np.cross(second_ray_N3, turned_N3)
        inverse_depth_N = -(back_N3 * off_N3).sum(axis=1) / (back_N3**2).sum(axis=1)
        seen_z_N = turned_N3[:, 2] + inverse_depth_N * translation_N3[:, 2]
        at_infinity_N2 = turned_N3[:, :2] / turned_N3[:, 2:] * second_N4[:, :2] + second_N4[:, 2:]
    is_in_front_N = (inverse_depth_N >= 0) & (seen_z_N > 0) & np.isfinite(sampson_N)
    # The Sampson error shares a distance between both pictures.
    from_infinity_N = np.linalg.norm(matches.second_px_N2 - at_infinity_N2, axis=1) / np.sqrt(2)
    from_infinity_N[~(turned_N3[:, 2] > 0)] = np.inf
    return np.where(is_in_front_N, sampson_N, from_infinity_N)


def fitted_intrinsics(
    matches: Matches, poses_T44: np.ndarray, intrinsics_T4: np.ndarray, height_px: int, width_px: int
) -> tuple[np.ndarray, float]:
    """Return (fx, fy, cx, cy of all frames that fit the poses best, the median residual with them): by how much they
    differ from those that are said tells what was forgotten, a crop or a change of size.

    A search along each of four numbers with ever smaller steps, from several focal lengths, since the median of
    absolute values has no useful derivative.
    """
    middle_4 = np.median(intrinsics_T4, axis=0)
    side_2 = np.array([width_px, height_px], dtype=np.float64)

    def intrinsics_of(change_4: np.ndarray) -> np.ndarray:
        return np.concatenate([middle_4[:2] * np.exp(change_4[:2]), middle_4[2:] + side_2 * change_4[2:]])

    def error_of(change_4: np.ndarray) -> float:
        all_frames_T4 = np.broadcast_to(intrinsics_of(change_4), (len(intrinsics_T4), 4))
        return float(np.median(residuals_px(matches, poses_T44, all_frames_T4)))

    starts = [np.array([scale, scale, 0.0, 0.0]) for scale in (0.0, -0.5, 0.5)]
    found = [_descended(error_of, start_4) for start_4 in starts]
    best_4 = min(found, key=error_of)
    return intrinsics_of(best_4), error_of(best_4)


def _descended(error_of: Callable[[np.ndarray], float], change_4: np.ndarray) -> np.ndarray:
    error, step = error_of(change_4), 0.16
    while step > 0.005:
        tried = [change_4 + step * direction_4 for direction_4 in DIRECTIONS]
        errors = list(map(error_of, tried))
        best = int(np.argmin(errors))
        if errors[best] < error:
            change_4, error = tried[best], errors[best]
        else:
            step /= 2
    return change_4


def _rays(points_px_N2: np.ndarray, intrinsics_N4: np.ndarray) -> np.ndarray:
    plane_N2 = (points_px_N2 - intrinsics_N4[:, 2:]) / intrinsics_N4[:, :2]
    return np.concatenate([plane_N2, np.ones((len(plane_N2), 1))], axis=1)
