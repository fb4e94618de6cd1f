"""Videos of any length and size: padded to what a tokenizer takes by a policy that the caller names, and cropped again.

    edge        the last row, column and frame go on
    black       black rows and columns; the last frame goes on
    official    as NVIDIA's command line pads: half of it on either side, black rows and columns, repeated frames

Latents of padded videos hold the padding; `Box.crop` undoes it at the decoded video.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok.config import TokenizerConfig, TokenizerError

Policy = Literal["edge", "black", "official"]


@dataclass(frozen=True)
class Box:
    """Where the video lies in its padded form: the first frame, row and column, and how many there are of each."""

    start_THW: tuple[int, int, int]
    size_THW: tuple[int, int, int]

    def crop(self, video_BCTHW: Tensor) -> Tensor:
        """The video without its padding; a view."""
        for dim, start, size in zip((2, 3, 4), self.start_THW, self.size_THW, strict=True):
            video_BCTHW = video_BCTHW.narrow(dim, start, size)
        return video_BCTHW


def pad(video_BCTHW: Tensor, config: TokenizerConfig, policy: Policy) -> tuple[Tensor, Box]:
    """A video in [-1, 1] that the tokenizer takes, as large or larger, and where in it the given one lies."""
    if policy not in ("edge", "black", "official"):
        raise TokenizerError(f"padding={policy} is not a policy; use edge, black or official")
    if video_BCTHW.ndim != 5 or not video_BCTHW.is_floating_point() or 0 in video_BCTHW.shape:
        raise TokenizerError(
            f"video of {video_BCTHW.dtype} and shape {list(video_BCTHW.shape)} is not a floating-point "
            f"[B, 3, T, H, W]; use to_unit_range on uint8 frames"
        )
    frames, height, width = video_BCTHW.shape[2:]
    missing = (-(frames - 1) % config.temporal_rate, -height % config.spatial_rate, -width % config.spatial_rate)
    before = tuple(count // 2 if policy == "official" else 0 for count in missing)
    (_, top, left), (_, bottom, right) = before, (count - b for count, b in zip(missing, before, strict=True))
    if policy == "edge":
        rows = torch.arange(height + missing[1], device=video_BCTHW.device).clamp_(max=height - 1)
        columns = torch.arange(width + missing[2], device=video_BCTHW.device).clamp_(max=width - 1)
        video_BCTHW = video_BCTHW.index_select(3, rows).index_select(4, columns)
    else:
        video_BCTHW = F.pad(video_BCTHW, (left, right, top, bottom), value=-1.0)
    times = torch.arange(frames + missing[0], device=video_BCTHW.device) - before[0]
    return video_BCTHW.index_select(2, times.clamp_(0, frames - 1)), Box(
        (before[0], top, left), (frames, height, width)
    )
