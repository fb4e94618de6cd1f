"""A camera's path as a network reads it: the Pluecker coordinates of the ray through each latent cell.

A ray with direction d, of length 1, from the camera's centre c is (c x d, d), or (d, c x d). The world's axes are those
of the window's first camera. Intrinsics are in pixels of the window, counted as areas (see
cosmos_data.sample_plan.window_conditions): the ray of cell (y, x) of H x W goes through the pixel place
((x + 0.5) width / W, (y + 0.5) height / H).

Of the pixel frames that a latent frame stands for one is taken, the 4th of 8 (arXiv 2501.03575, section 6.1); for the
first latent frame, which stands for one frame, that one.

T pixel frames, L latent frames, H W latent rows and columns.
"""

from typing import Literal

import numpy as np

from cosmos_data.geometry.poses import camera_to_world_T44, relative_to
from cosmos_data.manifests.conditions import Camera
from cosmos_train.conditions.config import PluckerOrder
from cosmos_train.config.errors import ConfigError

STILL = 1e-9
"""A camera whose places are all within this, in the unit of its translations, has stood still."""


def pooled_frames(num_latent_frames: int, temporal_rate: int) -> np.ndarray:
    """Return the pixel frame that stands for each latent frame, [L]: 0, then 1 + r (i - 1) + (r - 1) // 2 of i >= 1,
    which of r = 8 is the 4th of the 8 frames."""
    later = np.arange(num_latent_frames - 1) * temporal_rate + 1 + (temporal_rate - 1) // 2
    return np.concatenate([[0], later])


def plucker_6LHW(
    camera: Camera,
    *,
    num_frames: int,
    frames: np.ndarray,
    latent_HW: tuple[int, int],
    order: PluckerOrder,
    scale: Literal["clip", "metres"],
    unit_m: float = 1.0,
) -> np.ndarray:
    """Return the rays of some frames of a window, [6, L, H, W] in fp32.

    Args:
        num_frames: pixel frames of the window.
        frames: those that are wanted, [L].
        scale, unit_m: see ConditionConfig.camera_scale. A camera that stands still has the centre 0 either way.

    Raises:
        ConfigError: the intrinsics refer to a picture of another shape than the latents'.
        DataError: the path is of another length, or a matrix of it is no pose.
    """
    height, width = latent_HW
    if camera.height_px * width != camera.width_px * height:
        raise ConfigError(
            f"the camera's intrinsics refer to a picture of {camera.width_px} x {camera.height_px} px, and latents of "
            f"{width} x {height} cells are of another shape; give intrinsics of the window's own pixels, after its crop"
        )
    poses_T44 = camera_to_world_T44(camera, num_frames)
    poses_T44 = relative_to(poses_T44, poses_T44[0])
    unit = _extent(poses_T44[:, :3, 3]) if scale == "clip" else unit_m
    poses_L44 = poses_T44[frames]
    fx_L, fy_L, cx_L, cy_L = camera.intrinsics_T4(num_frames)[frames].T[:, :, None, None]
    x_W = (np.arange(width) + 0.5) * camera.width_px / width
    y_H = (np.arange(height) + 0.5) * camera.height_px / height
    ahead_LHW3 = np.ones((len(frames), height, width, 3))
    ahead_LHW3[..., 0] = (x_W[None, None, :] - cx_L) / fx_L
    ahead_LHW3[..., 1] = (y_H[None, :, None] - cy_L) / fy_L
    ahead_LHW3 /= np.linalg.norm(ahead_LHW3, axis=-1, keepdims=True)
    direction_LHW3 = np.einsum("lij,lhwj->lhwi", poses_L44[:, :3, :3], ahead_LHW3)
    moment_LHW3 = np.cross(poses_L44[:, None, None, :3, 3] / unit, direction_LHW3)
    parts = [moment_LHW3, direction_LHW3] if order == "moment_first" else [direction_LHW3, moment_LHW3]
    return np.moveaxis(np.concatenate(parts, axis=-1), -1, 0).astype(np.float32)


def _extent(centres_T3: np.ndarray) -> float:
    """Return the largest distance between two places, and 1 where the camera has stood still."""
    found = max(float(np.linalg.norm(centres_T3 - centre, axis=1).max()) for centre in centres_T3)
    return found if found > STILL else 1.0
