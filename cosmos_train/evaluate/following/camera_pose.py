"""Finds where a camera was from its frames, in a room that can be drawn from anywhere.

Analysis by synthesis: the room is drawn from a guessed pose, compared with the frame, and the guess is moved where the
two agree better (Gauss-Newton on blurred colours, coarse to fine, damped as by Levenberg and Marquardt). The estimator
knows the room, the lens and where the first frame was taken, which was given to the model too. Of the commanded path it
knows nothing: the guesses for a frame lie around what it has found for the frames before.

N poses, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cosmos_data.geometry.poses import poses_of
from cosmos_data.geometry.rotations import from_quaternion

Render = Callable[[np.ndarray], np.ndarray]
"""Camera-to-world poses [N, 4, 4] in OpenCV axes -> what is seen from them, uint8 [N, H, W, 3]."""

LEVELS = ((2.5, 0.05), (1.2, 0.03), (0.7, 0.015))
"""Coarse to fine: the deviation of the blur in pixels, and how far the room is drawn to either side of a guess to see
what changes, in rad and in the unit of the poses. It is a good part of a pixel: what is less, pixels do not tell."""
MOST_STEPS = 6
"""At each level."""
NUM_GUESSES = 12
GUESS_RAD, GUESS_MOVE = 0.06, 0.05
"""Deviations of the guesses around where the camera is expected."""
ENOUGH = 0.98
"""A step that leaves more of the misfit than this share is the level's end."""
DAMPINGS = (0.001, 0.1, 1.0, 10.0)
"""Each step tries all of them and takes the best."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseEstimator:
    """Finds poses in one room through one lens."""

    render: Render
    seed: int = 0
    """The guesses are drawn from it."""

    def track(self, frames_THW3: np.ndarray, first_pose_44: np.ndarray) -> np.ndarray:
        """Return the pose of each frame [T, 4, 4]; the first is the one that is given.

        Args:
            frames_THW3: uint8 pictures.
        """
        draws = np.random.Generator(np.random.Philox(self.seed))
        poses = [first_pose_44]
        for frame_HW3 in frames_THW3[1:]:
            expected = [poses[-1], poses[-1] @ np.linalg.inv(poses[-2]) @ poses[-1] if len(poses) > 1 else poses[-1]]
            offsets_N6 = draws.normal(size=(NUM_GUESSES, 6)) * ([GUESS_RAD] * 3 + [GUESS_MOVE] * 3)
            guesses = [moved(pose, offsets_N6[number::2]) for number, pose in enumerate(expected)]
            candidates_N44 = np.concatenate([np.stack(expected), *guesses])
            poses.append(self._refine(frame_HW3, self._best(frame_HW3, candidates_N44)))
        return np.stack(poses)

    def _best(self, frame_HW3: np.ndarray, candidates_N44: np.ndarray) -> np.ndarray:
        wanted = blurred(frame_HW3[None], LEVELS[0][0])
        drawn = blurred(self.render(candidates_N44), LEVELS[0][0])
        return candidates_N44[np.abs(drawn - wanted).mean(axis=(1, 2, 3)).argmin()]

    def _refine(self, frame_HW3: np.ndarray, pose_44: np.ndarray) -> np.ndarray:
        """Return the pose from which the frame is seen, found downhill from a guess."""
        for blur_px, step in LEVELS:
            wanted_P = blurred(frame_HW3[None], blur_px).ravel()
            for _ in range(MOST_STEPS):
                better_44 = self._better(wanted_P, pose_44, blur_px, step)
                if better_44 is None:
                    break
                pose_44 = better_44
        return pose_44

    def _better(self, wanted_P: np.ndarray, pose_44: np.ndarray, blur_px: float, step: float) -> np.ndarray | None:
        """Return a pose that fits better; None where none is found."""
        offsets_N6 = np.concatenate((np.zeros((1, 6)), step * np.eye(6), -step * np.eye(6)))
        drawn_NP = blurred(self.render(moved(pose_44, offsets_N6)), blur_px).reshape(len(offsets_N6), -1)
        changes_P6 = (drawn_NP[1:7] - drawn_NP[7:]).T / (2 * step)
        residual_P = wanted_P - drawn_NP[0]
        # Cauchy's weights: a part of the picture that the model has drawn wrong pulls at nothing.
        spread = 2 * float(np.median(np.abs(residual_P))) + 1
        weights_P = 1 / (1 + (residual_P / spread) ** 2)
        normal_66 = changes_P6.T @ (changes_P6 * weights_P[:, None])
        pull_6 = changes_P6.T @ (residual_P * weights_P)
        tried_N6 = [
            np.linalg.solve(normal_66 + damping * np.diag(np.diag(normal_66)) + 1e-6 * np.eye(6), pull_6)
            for damping in DAMPINGS
        ]
        tried_N44 = moved(pose_44, np.stack(tried_N6))
        tried_NP = blurred(self.render(tried_N44), blur_px).reshape(len(tried_N44), -1)
        costs_N = [_cost(wanted_P - tried_P, spread) for tried_P in tried_NP]
        best = int(np.argmin(costs_N))
        return tried_N44[best] if costs_N[best] < ENOUGH * _cost(residual_P, spread) else None


def moved(pose_44: np.ndarray, offsets_N6: np.ndarray) -> np.ndarray:
    """Return poses [N, 4, 4] off one pose: turned by the first three numbers (rad, small), moved by the others, in the
    pose's own axes."""
    halves_N3 = offsets_N6[:, :3] / 2
    turns_N33 = from_quaternion(np.concatenate((np.ones((len(halves_N3), 1)), halves_N3), axis=1), "wxyz")
    return pose_44 @ poses_of(offsets_N6[:, 3:], turns_N33)


def blurred(pictures_NHW3: np.ndarray, deviation_px: float) -> np.ndarray:
    """Return pictures under a Gaussian blur, fp32 of the range of uint8."""
    pictures: Tensor = torch.from_numpy(np.ascontiguousarray(pictures_NHW3)).permute(0, 3, 1, 2).float()
    reach = int(3 * deviation_px + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation_px) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, 1, -1)
    pictures = F.conv2d(F.pad(pictures, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
    pictures = F.conv2d(F.pad(pictures, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=3)
    return pictures.permute(0, 2, 3, 1).numpy()


def _cost(residual_P: np.ndarray, spread: float) -> float:
    return float(np.log1p((residual_P / spread) ** 2).sum())
