"""Videos of any length and size: padded to what a tokenizer takes by a policy that the caller names, and cropped again.

    edge        the last row, column and frame go on
    black       black rows and columns; the last frame goes on
    official    as NVIDIA's command line pads: half of it on either side, black rows and columns, repeated frames

Latents of padded videos hold the padding; `InnerBox.crop` undoes it at the decoded video. What is padded follows
from the size alone (`plan_padding`), so that a video of any length can be padded and cropped piece by piece.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok.config import PaddingPolicy, TokenizerConfig, TokenizerError


@dataclass(frozen=True)
class InnerBox:
    """Where the video lies in its padded form: the first frame, row and column, and how many there are of each."""

    start_THW: tuple[int, int, int]
    size_THW: tuple[int, int, int]

    def crop(self, video_BCTHW: Tensor) -> Tensor:
        """The video without its padding; a view."""
        for dim, start, size in zip((2, 3, 4), self.start_THW, self.size_THW, strict=True):
            video_BCTHW = video_BCTHW.narrow(dim, start, size)
        return video_BCTHW

    def crop_pieces(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`crop` of a video that comes in consecutive pieces [B, C, t, H, W]; pieces of padding alone are left out."""
        (start, top, left), (frames, height, width) = self.start_THW, self.size_THW
        for piece in pieces:
            first, last = max(start, 0), min(start + frames, piece.shape[2])
            if first < last:
                yield piece[:, :, first:last, top : top + height, left : left + width]
            start -= piece.shape[2]


@dataclass(frozen=True)
class Padding:
    """What surrounds a video of one size."""

    policy: PaddingPolicy
    box: InnerBox
    padded_THW: tuple[int, int, int]

    @property
    def times(self) -> list[int]:
        """Which of the video's frames stands at each frame of its padded form."""
        start, last = self.box.start_THW[0], self.box.size_THW[0] - 1
        return [min(max(time - start, 0), last) for time in range(self.padded_THW[0])]

    def pad_sides(self, video_BCTHW: Tensor) -> Tensor:
        """Rows and columns around any frames of the video, which is in [-1, 1]."""
        (_, top, left), (_, height, width) = self.box.start_THW, self.box.size_THW
        _, padded_height, padded_width = self.padded_THW
        if self.policy == "edge":
            rows = torch.arange(padded_height, device=video_BCTHW.device).clamp_(max=height - 1)
            columns = torch.arange(padded_width, device=video_BCTHW.device).clamp_(max=width - 1)
            return video_BCTHW.index_select(3, rows).index_select(4, columns)
        right, bottom = padded_width - width - left, padded_height - height - top
        return F.pad(video_BCTHW, (left, right, top, bottom), value=-1.0)


def plan_padding(size_THW: tuple[int, int, int], config: TokenizerConfig, policy: PaddingPolicy) -> Padding:
    """The padding that makes a video of this size one that the tokenizer takes."""
    if policy not in get_args(PaddingPolicy):
        raise TokenizerError(f"padding={policy} is not a policy; use edge, black or official")
    frames, height, width = size_THW
    missing = (-(frames - 1) % config.temporal_rate, -height % config.spatial_rate, -width % config.spatial_rate)
    before = missing[0] // 2, missing[1] // 2, missing[2] // 2
    return Padding(
        policy,
        InnerBox(before if policy == "official" else (0, 0, 0), size_THW),
        (frames + missing[0], height + missing[1], width + missing[2]),
    )


def pad(video_BCTHW: Tensor, config: TokenizerConfig, policy: PaddingPolicy) -> tuple[Tensor, InnerBox]:
    """A video in [-1, 1] that the tokenizer takes, as large or larger, and where in it the given one lies."""
    if video_BCTHW.ndim != 5 or not video_BCTHW.is_floating_point() or 0 in video_BCTHW.shape:
        raise TokenizerError(
            f"video of {video_BCTHW.dtype} and shape {list(video_BCTHW.shape)} is not a floating-point "
            f"[B, 3, T, H, W]; use to_unit_range on uint8 frames"
        )
    frames, height, width = video_BCTHW.shape[2:]
    padding = plan_padding((frames, height, width), config, policy)
    times = torch.tensor(padding.times, device=video_BCTHW.device)
    return padding.pad_sides(video_BCTHW).index_select(2, times), padding.box
