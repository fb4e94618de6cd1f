"""Long videos: windows that each begin with the last frames of the one before, as Video2World conditions.

    window 0   [given | ..........]
    window 1              [overlap | ..........]        overlap: the pixel frames of num_condition_frames latent frames
    window 2                           [overlap | ..........]

The overlap is encoded anew for each window, as the released code does by default: the tokenizer codes a window's first
frame by itself, so the latents that a window ends with are not those that one begins with.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError


def num_windows(num_frames: int, *, window_frames: int, overlap_frames: int) -> int:
    """Windows that a video of so many pixel frames takes. Raises ValueError where a window would add nothing."""
    if num_frames <= window_frames:
        return 1
    if not 0 < overlap_frames < window_frames:
        raise ConfigError(
            f"{num_frames} frames take more than one window of {window_frames}, and {overlap_frames} overlapping "
            f"frames must be at least 1 and fewer than a window; change sample.num_condition_frames"
        )
    return 1 + math.ceil((num_frames - window_frames) / (window_frames - overlap_frames))


def roll_out(
    sample: Callable[[Tensor | None, int], Tensor],
    given_BCTHW: Tensor | None,
    *,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    num_frames: int,
    window_frames: int,
    overlap_frames: int,
) -> Tensor:
    """Pixels [B, 3, num_frames, H, W].

    Args:
        sample: (conditioning latents or None, number of the window) -> latents of the window.
        given_BCTHW: conditioning latents of the first window, if any.
        encode: pixels -> latents; decode: latents -> pixels.
        window_frames: pixel frames of a window.
        overlap_frames: pixel frames that a window has in common with the one before.
    """
    count = num_windows(num_frames, window_frames=window_frames, overlap_frames=overlap_frames)
    video_B3THW = decode(sample(given_BCTHW, 0))
    for window in range(1, count):
        following = decode(sample(encode(video_B3THW[:, :, -overlap_frames:]), window))
        video_B3THW = torch.cat((video_B3THW, following[:, :, overlap_frames:]), dim=2)
    return video_B3THW[:, :, :num_frames]
