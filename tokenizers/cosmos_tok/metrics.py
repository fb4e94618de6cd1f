"""Reconstruction quality of uint8 videos, per frame: PSNR and SSIM.

    PSNR = 10 log10(255^2 / MSE), the mean square error over a frame's pixels and colours; infinite for equal frames.

    SSIM = mean of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

m, s^2 and s_ab are means, variances and covariance under an 11 x 11 Gaussian window of deviation 1.5; c1, c2 are
(0.01 * 255)^2 and (0.03 * 255)^2. The mean is over all places of the window inside the frame and the three colours.
(Wang, Bovik, Sheikh, Simoncelli 2004.) Everything is computed in float64, because s^2 = E[a^2] - m^2 cancels.

B batch, T frames, H rows, W columns.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_PX = 11
WINDOW_DEVIATION_PX = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True, eq=False)
class FrameScores:
    """One float64 number per frame; PSNR is in dB, SSIM at most 1."""

    per_frame_BT: Tensor

    @property
    def mean(self) -> float:
        return self.per_frame_BT.mean().item()


def psnr(a_B3THW: Tensor, b_B3THW: Tensor) -> FrameScores:
    """Peak signal-to-noise ratio in dB of two uint8 videos of one shape."""
    _require_videos(a_B3THW, b_B3THW)
    error_BT = (a_B3THW.double() - b_B3THW.double()).square().mean(dim=(1, 3, 4))
    return FrameScores(10 * torch.log10(255**2 / error_BT))


def ssim(a_B3THW: Tensor, b_B3THW: Tensor) -> FrameScores:
    """Structural similarity of two uint8 videos of one shape, whose sides are at least the window's 11 pixels."""
    _require_videos(a_B3THW, b_B3THW)
    batch, (height, width) = a_B3THW.shape[0], a_B3THW.shape[-2:]
    if min(height, width) < WINDOW_PX:
        raise ValueError(
            f"frames of {height} x {width} px are smaller than the SSIM window; use {WINDOW_PX} px or more"
        )
    # A frame at a time, every colour an image of its own: float64 copies of a long clip would be large.
    scores = [
        _ssim_of_frames(a_B3HW.flatten(0, 1), b_B3HW.flatten(0, 1)).view(batch, 3).mean(dim=1)
        for a_B3HW, b_B3HW in zip(a_B3THW.unbind(2), b_B3THW.unbind(2), strict=True)
    ]
    return FrameScores(torch.stack(scores, dim=1))


def _ssim_of_frames(a_NHW: Tensor, b_NHW: Tensor) -> Tensor:
    a, b = a_NHW.double(), b_NHW.double()
    m_a, m_b, aa, bb, ab = _window_means(torch.stack([a, b, a * a, b * b, a * b]))
    luminance = (2 * m_a * m_b + C1) / (m_a**2 + m_b**2 + C1)
    structure = (2 * (ab - m_a * m_b) + C2) / (aa - m_a**2 + bb - m_b**2 + C2)
    return (luminance * structure).mean(dim=(1, 2))


def _window_means(x_KNHW: Tensor) -> Tensor:
    """Gaussian means at every position where the window fits: rows first, then columns."""
    offset = torch.arange(WINDOW_PX, dtype=x_KNHW.dtype, device=x_KNHW.device) - WINDOW_PX // 2
    weight = torch.exp(-0.5 * (offset / WINDOW_DEVIATION_PX) ** 2)
    weight = weight / weight.sum()
    images = x_KNHW.flatten(0, 1).unsqueeze(1)
    images = F.conv2d(F.conv2d(images, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
    return images.squeeze(1).unflatten(0, x_KNHW.shape[:2])


def _require_videos(a: Tensor, b: Tensor) -> None:
    if a.dtype != torch.uint8 or b.dtype != torch.uint8 or a.shape != b.shape or a.ndim != 5 or a.shape[1] != 3:
        raise ValueError(
            f"videos of {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)} cannot be compared; "
            f"use two uint8 videos of one shape [B, 3, T, H, W]"
        )
