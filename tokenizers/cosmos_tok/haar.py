"""Haar wavelet patches in time, height and width, without any stored filter.

`patch` turns a video into sub-bands of p x p x p pixels, `unpatch` is its inverse up to the rounding of the sums.
Frame 0 is repeated until it fills a temporal patch of its own, so that it is coded alone and nothing looks ahead:
{x0 x0 x0 x0} {x1 x2 x3 x4} {x5 ...} for p = 4. One level halves every axis with the filters (1, 1)/sqrt(2) and
(1, -1)/sqrt(2) and divides by 2 sqrt(2): the sum and the difference over each axis, and 1/8 in all. The inverse is
those sums and differences again, unscaled. So no constant is irrational and none is rounded in bf16; the sums are made
in float32 and rounded once at the end.

Channel order of one level: lll, llh, lhl, lhh, hll, hlh, hhl, hhh in (t, h, w), each holding all the input's channels;
the second level treats all of them as its channels. (Cosmos, arXiv 2501.03575, section 4.)

Images have the same transform of two axes, divided by 2 per level, with one difference of the released weights: their
sub-bands are ordered in (w, h), so lh is high in h.

Filters a, a that are not exactly 1/sqrt(2) scale both directions by the same `gain`, see `TokenizerConfig.wavelet`.

B batch, C channels, T frames, H rows, W columns, p patch side (a power of two).
"""

from itertools import product

import torch
from torch import Tensor


def patch(video_BCTHW: Tensor, p: int, gain: float = 1.0, *, begun: bool = False) -> Tensor:
    """[B, C, 1 + p n, H, W] -> [B, C p^3, 1 + n, H/p, W/p], same dtype; `begun`: the p n frames after others, to n."""
    x = _wide(video_BCTHW)
    if not begun:
        x = torch.cat([x[:, :, :1].expand(-1, -1, p - 1, -1, -1), x], dim=2)
    for _ in range(p.bit_length() - 1):
        corners = [x[:, :, t::2, h::2, w::2] for t, h, w in product((0, 1), repeat=3)]
        x = torch.cat(_sums_and_differences(corners), dim=1)
    return x.mul_(gain / p**3).to(video_BCTHW.dtype)


def unpatch(bands_BCTHW: Tensor, p: int, gain: float = 1.0, *, begun: bool = False) -> Tensor:
    """[B, C p^3, 1 + n, H/p, W/p] -> [B, C, 1 + p n, H, W], same dtype; `begun`: n after others, to p n frames."""
    x = _wide(bands_BCTHW)
    for _ in range(p.bit_length() - 1):
        corners = torch.stack(_sums_and_differences(list(x.chunk(8, dim=1))), dim=2)
        x = corners.unflatten(2, (2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6).flatten(4, 5).flatten(2, 3)
    x = x if begun else x[:, :, p - 1 :]
    return (x if gain == 1.0 else x * gain).to(bands_BCTHW.dtype)


def patch_frames(video_BCTHW: Tensor, p: int, gain: float = 1.0) -> Tensor:
    """[B, C, T, H, W] -> [B, C p^2, T, H/p, W/p], same dtype: every frame by itself, as images are coded."""
    x = _wide(video_BCTHW)
    for _ in range(p.bit_length() - 1):
        x = torch.cat(_sums_and_differences([x[..., h::2, w::2] for w, h in product((0, 1), repeat=2)]), dim=1)
    return (x * (gain / p**2)).to(video_BCTHW.dtype)


def unpatch_frames(bands_BCTHW: Tensor, p: int, gain: float = 1.0) -> Tensor:
    """[B, C p^2, T, H/p, W/p] -> [B, C, T, H, W], same dtype, the inverse of `patch_frames`."""
    x = _wide(bands_BCTHW)
    for _ in range(p.bit_length() - 1):
        corners = torch.stack(_sums_and_differences(list(x.chunk(4, dim=1))), dim=2)
        x = corners.unflatten(2, (2, 2)).permute(0, 1, 4, 5, 3, 6, 2).flatten(5).flatten(3, 4)
    return (x if gain == 1.0 else x * gain).to(bands_BCTHW.dtype)


def _sums_and_differences(parts: list[Tensor]) -> list[Tensor]:
    """Over each axis in turn, of 8 parts numbered 4 t + 2 h + w, or 4; done twice it gives 8 or 4 times the parts."""
    for axis in (1 << n for n in range(len(parts).bit_length() - 1)):
        parts = [parts[i ^ axis] - parts[i] if i & axis else parts[i] + parts[i ^ axis] for i in range(len(parts))]
    return parts


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
