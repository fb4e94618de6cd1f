"""Actions as a network reads them: normalised, and packed by the latent frame that they bring about.

Step k of an action is at time k / rate_hz after the window's first frame and brings about what is seen after it. So
where rate_hz is m times the frame rate, steps m f .. m f + m - 1 lead from frame f to frame f + 1; and the pixel frames
1 + r (i - 1) .. r i of latent frame i >= 1 (r: frames of a latent frame) are brought about by the r m steps from
r m (i - 1) on. Nothing that is known brings about latent frame 0: its actions are zero. The released network reads
instead the one step that leads to the next frame (arXiv 2501.03575, section 6.2).

L latent frames, R steps of a latent frame, A dimensions.
"""

import numpy as np

from cosmos_train.config.errors import ConfigError

RATE_TOLERANCE = 1e-4
"""As a share: rates are written as 29.97 and as 30000 / 1001, which are 1e-6 apart. 30 is 1e-3 from them, and slips by
a step in 1000 frames."""


def steps_per_frame(rate_hz: float, fps: float) -> int:
    """Return the steps from a frame to the next. Raises ConfigError where they are no whole number."""
    ratio = rate_hz / fps
    steps = round(ratio)
    if steps < 1 or abs(ratio - steps) > RATE_TOLERANCE * steps:
        raise ConfigError(
            f"actions at {rate_hz:g} Hz are no whole number of steps for each frame at {fps:g} fps; choose "
            "another rate of frames (data.target_fps, data.frame_stride), or resample the actions"
        )
    return steps


def packed_LRA(
    values_ND: np.ndarray, *, num_latent_frames: int, steps_of_latent: int, num_dimensions: int
) -> np.ndarray:
    """Return the steps of each latent frame, [L, R, A]: zeros of the first, and zeros in dimensions that are not there.

    Raises:
        ConfigError: there are too few steps, or too many dimensions.
    """
    needed, width = (num_latent_frames - 1) * steps_of_latent, values_ND.shape[1]
    _require(values_ND, needed, num_dimensions)
    found = np.zeros((num_latent_frames, steps_of_latent, num_dimensions), dtype=np.float32)
    found[1:, :, :width] = values_ND[:needed].reshape(num_latent_frames - 1, steps_of_latent, width)
    return found


def next_frame_11A(values_ND: np.ndarray, *, num_dimensions: int) -> np.ndarray:
    """Return the first step alone, [1, 1, A]. Raises ConfigError as packed_LRA does."""
    _require(values_ND, 1, num_dimensions)
    found = np.zeros((1, 1, num_dimensions), dtype=np.float32)
    found[0, 0, : values_ND.shape[1]] = values_ND[0]
    return found


def _require(values_ND: np.ndarray, num_steps: int, num_dimensions: int) -> None:
    found, width = values_ND.shape
    if found < num_steps:
        raise ConfigError(
            f"{found} steps of actions are too few for a window that {num_steps} bring about; give a longer file, or "
            "ask for a shorter video"
        )
    if width > num_dimensions:
        raise ConfigError(
            f"actions have {width} dimensions, and the network reads {num_dimensions} of a step; widen "
            "model.action_width for training"
        )
