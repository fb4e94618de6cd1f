"""Reconstruction quality of uint8 videos, per frame: PSNR and SSIM. And the use that is made of a codebook.

    PSNR = 10 log10(255^2 / MSE), the mean square error over a frame's pixels and colours; infinite for equal frames.

    SSIM = mean of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

m, s^2 and s_ab are means, variances and covariance under a window; c1, c2 are (0.01 * 255)^2 and (0.03 * 255)^2. The
mean is over all places of the window inside the frame and the three colours. The window is an 11 x 11 Gaussian of
deviation 1.5 (Wang, Bovik, Sheikh, Simoncelli 2004), or `uniform`: 7 x 7 pixels of equal weight with the variances of
a sample, 49/48 as large, which is what scikit-image computes where nothing else is said, and so the published figures
of the Cosmos tokenizers. Everything is computed in float64, because s^2 = E[a^2] - m^2 cancels.

B batch, T frames, H rows, W columns.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok.config import SsimWindow, TokenizerError

WINDOW_PX = 11
WINDOW_DEVIATION_PX = 1.5
UNIFORM_PX = 7
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
PUBLISHED_EPS = 2.0**-23
"""Added to the root of the mean square error in the published figures, so that equal clips have 186.6 dB."""


@dataclass(frozen=True, eq=False)
class FrameScores:
    """One float64 number per frame; PSNR is in dB, SSIM at most 1."""

    per_frame_BT: Tensor

    @property
    def mean(self) -> float:
        return self.per_frame_BT.mean().item()


def psnr(a_B3THW: Tensor, b_B3THW: Tensor) -> FrameScores:
    """Peak signal-to-noise ratio in dB of two uint8 videos of one shape."""
    return FrameScores(10 * torch.log10(255**2 / mean_square_error(a_B3THW, b_B3THW)))


def mean_square_error(a_B3THW: Tensor, b_B3THW: Tensor) -> Tensor:
    """Of two uint8 videos of one shape, per frame: float64 [B, T]."""
    _require_videos(a_B3THW, b_B3THW)
    return (a_B3THW.double() - b_B3THW.double()).square().mean(dim=(1, 3, 4))


def clip_psnr(mean_square_error: float) -> float:
    """dB of a whole clip's mean square error, as TokenBench computes it; finite."""
    return 20 * math.log10(255 / (math.sqrt(mean_square_error) + PUBLISHED_EPS))


def ssim(a_B3THW: Tensor, b_B3THW: Tensor, window: SsimWindow = "gaussian") -> FrameScores:
    """Structural similarity of two uint8 videos of one shape, whose sides are at least those of the window."""
    _require_videos(a_B3THW, b_B3THW)
    batch, (height, width) = a_B3THW.shape[0], a_B3THW.shape[-2:]
    weight = _window(window).to(a_B3THW.device)
    if min(height, width) < len(weight):
        raise TokenizerError(
            f"frames of {height} x {width} px are smaller than the SSIM window; use {len(weight)} px or more"
        )
    # A frame at a time, every colour an image of its own: float64 copies of a long clip would be large.
    scores = [
        _ssim_of_frames(a_B3HW.flatten(0, 1), b_B3HW.flatten(0, 1), weight, window).view(batch, 3).mean(dim=1)
        for a_B3HW, b_B3HW in zip(a_B3THW.unbind(2), b_B3THW.unbind(2), strict=True)
    ]
    return FrameScores(torch.stack(scores, dim=1))


def code_use(counts_N: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """How a codebook is used, of how often codes occurred; those that did not may be left out.

    code_usage: different codes over as many as there could have been, all of the codebook or one at each occurrence.
    code_perplexity: exp of the entropy of their frequencies, the number of equally frequent codes that would be as hard
    to guess.
    """
    seen_N = counts_N[counts_N > 0]
    num_occurrences = seen_N.sum()
    frequency_N = (seen_N.double() / num_occurrences).float()
    return {
        "code_usage": len(seen_N) / num_occurrences.clamp(max=codebook_size).float(),
        "code_perplexity": (-frequency_N * frequency_N.log()).sum().exp(),
    }


def _window(window: SsimWindow) -> Tensor:
    """Weights of one row of the window, which are also those of its columns."""
    if window == "uniform":
        return torch.full((UNIFORM_PX,), 1 / UNIFORM_PX, dtype=torch.float64)
    offset = torch.arange(WINDOW_PX, dtype=torch.float64) - WINDOW_PX // 2
    weight = torch.exp(-0.5 * (offset / WINDOW_DEVIATION_PX) ** 2)
    return weight / weight.sum()


def _ssim_of_frames(a_NHW: Tensor, b_NHW: Tensor, weight: Tensor, window: SsimWindow) -> Tensor:
    a, b = a_NHW.double(), b_NHW.double()
    m_a, m_b, aa, bb, ab = _window_means(torch.stack([a, b, a * a, b * b, a * b]), weight)
    of_sample = UNIFORM_PX**2 / (UNIFORM_PX**2 - 1) if window == "uniform" else 1.0
    variances, covariance = (aa - m_a**2 + bb - m_b**2) * of_sample, (ab - m_a * m_b) * of_sample
    luminance = (2 * m_a * m_b + C1) / (m_a**2 + m_b**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (luminance * structure).mean(dim=(1, 2))


def _window_means(x_KNHW: Tensor, weight: Tensor) -> Tensor:
    """Weighted means at every position where the window fits: rows first, then columns."""
    images = x_KNHW.flatten(0, 1).unsqueeze(1)
    images = F.conv2d(F.conv2d(images, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))
    return images.squeeze(1).unflatten(0, x_KNHW.shape[:2])


def _require_videos(a: Tensor, b: Tensor) -> None:
    if a.dtype != torch.uint8 or b.dtype != torch.uint8 or a.shape != b.shape or a.ndim != 5 or a.shape[1] != 3:
        raise TokenizerError(
            f"videos of {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)} cannot be compared; "
            f"use two uint8 videos of one shape [B, 3, T, H, W]"
        )
