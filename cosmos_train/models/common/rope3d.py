"""Rotary positions of a T x H x W grid of tokens (arXiv 2501.03575, section 5.1.1; RoPE: arXiv 2104.09864).

A head of width K is divided over the three axes: rows and columns get K // 6 * 2 each, time the rest. Within an axis of
width d, frequency i is theta^(-2 i / d), and NTK extrapolation by a ratio r raises theta to 10000 * r^(d / (d - 2)).
Frames are placed by time, not by index: at base_fps neighbours are 1 apart, at half of it 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Width of a head's part for time, rows and columns."""
    spatial = head_dim // 6 * 2
    return head_dim - 2 * spatial, spatial, spatial


def inverse_frequencies(width: int, scale: float, device: torch.device | None = None) -> Tensor:
    """[width / 2] angular steps of one axis, fp32."""
    theta = 10000.0 * scale ** (width / (width - 2))
    return theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)


def rope_angles(
    num_frames: int,
    height: int,
    width: int,
    *,
    head_dim: int,
    scales_thw: tuple[float, float, float],
    fps_B: Sequence[float],
    base_fps: float,
    device: torch.device | None = None,
) -> Tensor:
    """Angles of every token, [L, B, 1, K / 2] in fp32, L = T * H * W with time outermost; B is 1 where all fps agree.

    An image (num_frames 1) has no frame rate: its only position in time is 0.
    """
    if len(set(fps_B)) == 1:
        fps_B = fps_B[:1]
    freqs = [inverse_frequencies(d, scale, device) for d, scale in zip(axis_widths(head_dim), scales_thw, strict=True)]
    fps = torch.tensor(fps_B, device=device, dtype=torch.float32)
    t_TB = torch.arange(num_frames, device=device)[:, None] / fps * base_fps
    h_H, w_W = torch.arange(height, device=device), torch.arange(width, device=device)
    shape = (num_frames, height, width, len(fps_B))
    parts = (
        (t_TB[:, :, None] * freqs[0])[:, None, None].expand(*shape, -1),
        (h_H[:, None] * freqs[1])[None, :, None, None].expand(*shape, -1),
        (w_W[:, None] * freqs[2])[None, None, :, None].expand(*shape, -1),
    )
    return torch.cat(parts, dim=-1).flatten(0, 2).unsqueeze(2)


def apply_rope(x_LBNK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + K / 2) of every head. cos and sin: [L, 1 or B, 1, K / 2]."""
    first, second = x_LBNK.chunk(2, dim=-1)
    return torch.cat(
        (torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)), dim=-1
    )
