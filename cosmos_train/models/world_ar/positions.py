"""Where a token is: rotary angles and sinusoids of its (t, y, x) in the grid of codes.

Tokens run through the grid with time outermost. A begin token stands before the grid and has no position: angle and
sinusoid are 0. Facts of the released models: arXiv 2501.03575, section 5.2, and its code.
"""

import math

import torch
from torch import Tensor

from cosmos_train.models.common.rope3d import axis_widths
from cosmos_train.models.world_ar.config import WorldARConfig


def grid_positions(config: WorldARConfig, tokens: range, grid_HW: tuple[int, int], device: torch.device) -> Tensor:
    """(t, y, x) of the tokens with these places in the sequence, [L, 3] in fp32; NaN for the begin token."""
    height, width = grid_HW
    index_L = torch.arange(tokens.start, tokens.stop, device=device) - int(config.begin_token)
    place_L3 = torch.stack((index_L // (height * width), index_L // width % height, index_L % width), dim=1).float()
    return place_L3.where(index_L[:, None] >= 0, torch.nan)


def rotary_angles(config: WorldARConfig, place_L3: Tensor) -> Tensor:
    """[L, 1, 1, K / 2]: a head's pairs for time, then rows, then columns."""
    widths = axis_widths(config.head_dim)
    frames, height, _ = config.yarn_original_THW
    originals = (frames, height, height)
    parts = []
    for axis, (width, original) in enumerate(zip(widths, originals, strict=True)):
        steps = torch.arange(0, width, 2, device=place_L3.device, dtype=torch.float32)
        frequency = 1.0 / config.rope_theta ** (steps / width)
        if axis == 0 or config.yarn_spatial:
            frequency = slowed(frequency, original, config)
        parts.append(place_L3[:, axis, None] * frequency)
    return torch.cat(parts, dim=-1).nan_to_num(0.0)[:, None, None]


def slowed(frequency: Tensor, original_length: int, config: WorldARConfig) -> Tensor:
    """YaRN by parts (arXiv 2309.00071, section 3.2), without its temperature, as the released models have it."""
    slow, fast = (2 * math.pi * beta / original_length for beta in (config.yarn_beta_slow, config.yarn_beta_fast))
    kept = ((frequency - slow) / (fast - slow)).clamp(0, 1)
    return frequency * ((1 - kept) / config.yarn_scale + kept)


def sinusoids(width: int, place_L3: Tensor) -> Tensor:
    """[L, 1, D]: sines, then cosines of time, then of rows, then of columns; rounded to bf16, as released."""
    parts = []
    for axis, axis_width in enumerate(axis_widths(width)):
        steps = torch.arange(axis_width // 2, device=place_L3.device, dtype=torch.float64)
        angle = place_L3[:, axis, None].double() / 10000 ** (steps / (axis_width / 2))
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=-1).nan_to_num(0.0).bfloat16()[:, None]
