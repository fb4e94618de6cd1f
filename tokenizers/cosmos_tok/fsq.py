"""Finite scalar quantisation (arXiv 2309.15505): every latent channel is rounded to one of a few levels.

With L levels a channel takes the integers -floor(L/2) ... ceil(L/2) - 1, and a code is such an integer divided by
floor(L/2): a multiple of a power of two in [-1, 1] for the released levels, exact in bf16. There is no codebook, no
parameter and no loss; rounding passes gradients straight through. The arithmetic is float32, whatever comes in.

B batch, C code channels (one per level count), T latent frames, H W latent rows and columns.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SLACK = 1e-3  # widens the bound a little, so that the outermost levels are reached at a finite value


def bound(z_BCTHW: Tensor, levels: Sequence[int]) -> Tensor:
    """Squeeze channel c into the open interval that rounds to its L_c integers, keeping 0 at 0.

    tanh(z + shift) * half - offset, half = (L - 1)(1 + SLACK)/2, offset = 1/2 for even L, shift = atanh(offset / half).
    """
    half = [(level - 1) * (1 + SLACK) / 2 for level in levels]
    offset = [0.5 if level % 2 == 0 else 0.0 for level in levels]
    shift = [math.atanh(o / h) for o, h in zip(offset, half, strict=True)]
    half_C111, offset_C111, shift_C111 = (_column(values, z_BCTHW) for values in (half, offset, shift))
    return torch.tanh(z_BCTHW.float() + shift_C111) * half_C111 - offset_C111


def quantize(z_BCTHW: Tensor, levels: Sequence[int]) -> Tensor:
    """Codes in [-1, 1] of the input's dtype; the gradient is that of `bound`, as if nothing had been rounded."""
    bounded = bound(z_BCTHW, levels)
    # The bracket is exactly zero, so the value is exactly the integer: rounding noise would break the index.
    straight_through = bounded.detach().round() + (bounded - bounded.detach())
    return (straight_through / _half_width(levels, z_BCTHW)).to(z_BCTHW.dtype)


def to_levels(codes_BCTHW: Tensor, levels: Sequence[int]) -> Tensor:
    """The integers -floor(L/2) ... ceil(L/2) - 1, float32, that the codes stand for; shape as the codes."""
    return (codes_BCTHW.float() * _half_width(levels, codes_BCTHW)).round()


def codes_to_indices(codes_BCTHW: Tensor, levels: Sequence[int]) -> Tensor:
    """Index [B, T, H, W] int64 in 0 .. prod(levels) - 1: sum over c of (code * half + half) * prod(levels[:c])."""
    digits_BCTHW = (to_levels(codes_BCTHW, levels) + _half_width(levels, codes_BCTHW)).long()
    return (digits_BCTHW * _basis(levels, codes_BCTHW)).sum(dim=1)


def indices_to_codes(indices_BTHW: Tensor, levels: Sequence[int]) -> Tensor:
    """Codes [B, C, T, H, W] float32 of the indices, the inverse of `codes_to_indices`."""
    indices_B1THW = indices_BTHW.long().unsqueeze(1)
    digits_BCTHW = indices_B1THW // _basis(levels, indices_BTHW) % _column(levels, indices_BTHW).long()
    half_C111 = _half_width(levels, indices_BTHW)
    return (digits_BCTHW - half_C111) / half_C111


def _half_width(levels: Sequence[int], like: Tensor) -> Tensor:
    return _column([level // 2 for level in levels], like)


def _basis(levels: Sequence[int], like: Tensor) -> Tensor:
    return _column([math.prod(levels[:c]) for c in range(len(levels))], like).long()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """One number per channel, shaped to broadcast over [B, C, T, H, W], on the device of `like`."""
    return torch.tensor(values, dtype=torch.float64, device=like.device).view(-1, 1, 1, 1).float()
