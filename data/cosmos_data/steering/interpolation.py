"""Poses between key frames: rotations by the shortest turn at an even pace (slerp), centres along straight lines."""

from collections.abc import Sequence

import numpy as np

from cosmos_data.geometry.poses import poses_of
from cosmos_data.geometry.rotations import from_quaternion, to_quaternion


def interpolate_poses(poses_K44: np.ndarray, key_frames: Sequence[int], frames_T: np.ndarray) -> np.ndarray:
    """Return poses [T, 4, 4] at frames between key frames; past the last of these its pose stays.

    Args:
        poses_K44: camera to world, where centres move along lines.
        key_frames: their frame numbers, rising.

    Quaternions q(u) = (sin((1-u) a) q0 + sin(u a) q1) / sin(a), with a the angle between both (Shoemake 1985).
    """
    before_T, after_T, share_T1 = _neighbours(key_frames, frames_T)
    quaternions_K4 = to_quaternion(poses_K44[:, :3, :3], "wxyz")
    first_T4, second_T4 = quaternions_K4[before_T], quaternions_K4[after_T]
    cosine_T1 = (first_T4 * second_T4).sum(axis=1, keepdims=True)
    second_T4 = np.where(cosine_T1 < 0, -second_T4, second_T4)  # q and -q are one rotation; the nearer one is meant
    angle_T1 = np.arccos(np.clip(np.abs(cosine_T1), 0, 1))
    is_tiny_T1 = angle_T1 < 1e-8
    sine_T1 = np.where(is_tiny_T1, 1, np.sin(angle_T1))
    weight_first_T1 = np.where(is_tiny_T1, 1 - share_T1, np.sin((1 - share_T1) * angle_T1) / sine_T1)
    weight_second_T1 = np.where(is_tiny_T1, share_T1, np.sin(share_T1 * angle_T1) / sine_T1)
    rotations_T33 = from_quaternion(weight_first_T1 * first_T4 + weight_second_T1 * second_T4, "wxyz")
    return poses_of(interpolate_linearly(poses_K44[:, :3, 3], key_frames, frames_T), rotations_T33)


def interpolate_linearly(values_KN: np.ndarray, key_frames: Sequence[int], frames_T: np.ndarray) -> np.ndarray:
    """Return values [T, N] at frames between key frames."""
    before_T, after_T, share_T1 = _neighbours(key_frames, frames_T)
    return (1 - share_T1) * values_KN[before_T] + share_T1 * values_KN[after_T]


def _neighbours(key_frames: Sequence[int], frames_T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the key before and after each frame, and how far [T, 1] it lies between them, 0 to 1."""
    keys_K = np.asarray(key_frames)
    before_T = np.clip(np.searchsorted(keys_K, frames_T, side="right") - 1, 0, len(keys_K) - 1)
    after_T = np.minimum(before_T + 1, len(keys_K) - 1)
    gap_T = np.maximum(keys_K[after_T] - keys_K[before_T], 1)
    return before_T, after_T, ((frames_T - keys_K[before_T]) / gap_T)[:, None].clip(0, 1)
