"""PSNR and SSIM against values computed by hand and against a literal double loop."""

import math

import numpy as np
import pytest
import torch

from cosmos_tok.config import SsimWindow
from cosmos_tok.metrics import clip_psnr, code_use, mean_square_error, psnr, ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def constant(value: int, num_frames: int = 1) -> torch.Tensor:
    return torch.full((1, 3, num_frames, 16, 16), value, dtype=torch.uint8)


def test_identical_videos() -> None:
    video = noise(2, 3, 4, 16, 20)
    assert psnr(video, video).per_frame_BT.tolist() == [[math.inf] * 4] * 2
    assert psnr(video, video).mean == math.inf
    torch.testing.assert_close(ssim(video, video).per_frame_BT, torch.ones(2, 4, dtype=torch.float64))


def test_psnr_by_hand() -> None:
    # An error of 5 everywhere: 10 log10(255^2 / 25); of 255 everywhere: 0 dB; in half of the pixels 10: MSE 50.
    assert psnr(constant(100), constant(105)).mean == pytest.approx(34.1514, abs=1e-4)
    assert psnr(constant(0), constant(255)).mean == 0.0
    half = constant(100)
    half[..., ::2] += 10
    assert psnr(constant(100), half).mean == pytest.approx(31.1411, abs=1e-4)


def test_scores_are_per_frame_and_the_mean_is_theirs() -> None:
    a, b = constant(100, num_frames=2), constant(105, num_frames=2)
    b[:, :, 1] = 110
    scores = psnr(a, b)
    assert scores.per_frame_BT.tolist() == [[pytest.approx(34.1514, abs=1e-4), pytest.approx(28.1308, abs=1e-4)]]
    assert scores.mean == pytest.approx((34.1514 + 28.1308) / 2, abs=1e-4)


def test_ssim_of_constants_by_hand() -> None:
    # No variance, so only the luminance term is left: (2 * 100 * 120 + 6.5025) / (100^2 + 120^2 + 6.5025).
    assert ssim(constant(100), constant(120)).mean == pytest.approx(24006.5025 / 24406.5025, abs=1e-12)


def gaussian_11() -> np.ndarray:
    offset = np.arange(11) - 5
    weights = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * 1.5**2))
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("window", "weights", "of_sample"),
    [("gaussian", gaussian_11(), 1.0), ("uniform", np.full((7, 7), 1 / 49), 49 / 48)],
)
def test_ssim_is_that_of_a_literal_double_loop(window: SsimWindow, weights: np.ndarray, of_sample: float) -> None:
    a, b = noise(1, 3, 2, 13, 14), noise(1, 3, 2, 13, 14, seed=1)
    b = ((a.int() * 3 + b.int()) // 4).to(torch.uint8)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    side = len(weights)
    for frame in range(2):
        values = []
        for colour in range(3):
            x, y = (video[0, colour, frame].numpy().astype(np.float64) for video in (a, b))
            for i in range(13 - side + 1):
                for j in range(14 - side + 1):
                    p, q = x[i : i + side, j : j + side], y[i : i + side, j : j + side]
                    mp, mq = (weights * p).sum(), (weights * q).sum()
                    vp, vq = ((weights * (r - m) ** 2).sum() * of_sample for r, m in ((p, mp), (q, mq)))
                    cov = (weights * (p - mp) * (q - mq)).sum() * of_sample
                    values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        assert ssim(a, b, window).per_frame_BT[0, frame].item() == pytest.approx(np.mean(values), abs=1e-10)


def test_the_psnr_of_a_clip_is_of_all_its_frames() -> None:
    first, second = constant(100), constant(100)
    errors = torch.cat([mean_square_error(first, constant(105)), mean_square_error(second, constant(100))])
    assert clip_psnr(errors.mean().item()) == pytest.approx(10 * math.log10(255**2 / 12.5))
    assert clip_psnr(0.0) == pytest.approx(186.6, abs=0.05), "as in the published figures"


def test_code_use_by_hand() -> None:
    entropy = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    for counts in ([4, 2, 2], [0, 4, 0, 2, 2]):
        found = code_use(torch.tensor(counts), 100)
        assert found["code_perplexity"].item() == pytest.approx(math.exp(entropy))
        assert found["code_usage"].item() == pytest.approx(3 / 8)
    assert code_use(torch.tensor([8]), 4)["code_usage"].item() == pytest.approx(1 / 4)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_what_cannot_be_compared_is_refused(score) -> None:
    video = constant(0)
    for other in (video.float(), video[..., :8], video[0], video[:, :1]):
        with pytest.raises(ValueError, match=r"cannot be compared; use two uint8 videos of one shape"):
            score(video, other)


def test_frames_smaller_than_the_window_are_refused() -> None:
    small = noise(1, 3, 1, 10, 16)
    with pytest.raises(ValueError, match=r"frames of 10 x 16 px are smaller than the SSIM window; use 11 px or more"):
        ssim(small, small)
    assert ssim(small, small, "uniform").mean == pytest.approx(1)
