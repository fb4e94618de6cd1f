"""Long videos: windows that each begin with the last frames of the one before, as Video2World conditions.

    window 0   [given | ..........]
    window 1              [overlap | ..........]        overlap: the pixel frames of num_condition_frames latent frames
    window 2                           [overlap | ..........]

The overlap is encoded anew for each window, as the released code does by default: the tokenizer codes a window's first
frame by itself, so the latents that a window ends with are not those that one begins with.
"""

import math
from dataclasses import dataclass

from cosmos_train.config.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """The windows of a long video, in pixel frames."""

    window_frames: int
    overlap_frames: int
    """That a window has in common with the one before."""
    num_windows: int

    @classmethod
    def of(cls, num_frames: int, *, window_frames: int, overlap_frames: int) -> "Rollout":
        """Return the windows of a video of so many frames. Raises ConfigError where a window would add nothing."""
        count = num_windows(num_frames, window_frames=window_frames, overlap_frames=overlap_frames)
        return cls(window_frames=window_frames, overlap_frames=overlap_frames, num_windows=count)

    @property
    def total_frames(self) -> int:
        """Return the frames that all windows show, which may be more than were asked for."""
        return self.start_frame(self.num_windows - 1) + self.window_frames

    def start_frame(self, window: int) -> int:
        """Return the frame of the video that a window begins with."""
        return window * (self.window_frames - self.overlap_frames)


def num_windows(num_frames: int, *, window_frames: int, overlap_frames: int) -> int:
    """Return how many windows a video of so many pixel frames takes.

    Raises ConfigError where a window would add nothing.
    """
    if num_frames <= window_frames:
        return 1
    if not 0 < overlap_frames < window_frames:
        raise ConfigError(
            f"{num_frames} frames take more than one window of {window_frames}, and {overlap_frames} overlapping "
            f"frames must be at least 1 and fewer than a window; change sample.num_condition_frames"
        )
    return 1 + math.ceil((num_frames - window_frames) / (window_frames - overlap_frames))
