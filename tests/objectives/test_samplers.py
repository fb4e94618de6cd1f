"""Noise levels as diffusers has them, and Euler steps that reach the distribution they should."""

import pytest
import torch
from diffusers import EDMEulerScheduler

from cosmos_train.objectives.samplers import euler, karras_sigmas


def test_sigmas_are_diffusers():
    scheduler = EDMEulerScheduler(sigma_min=0.0002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(35)
    ours = karras_sigmas(35, sigma_max=80.0, sigma_min=0.0002, rho=7.0)
    torch.testing.assert_close(ours.float(), scheduler.sigmas, rtol=1e-4, atol=1e-7)
    assert ours[0] == 80 and ours[-1] == 0 and len(ours) == 36


@pytest.mark.parametrize(("num_steps", "tolerance"), [(10, 0.4), (200, 0.02)])
def test_euler_reaches_a_gaussian(num_steps: int, tolerance: float):
    """Data ~ N(mean, std^2) has the ideal denoiser (mean sigma^2 + x std^2) / (sigma^2 + std^2)."""
    mean, std = 0.7, 0.3
    noise = torch.randn(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen: list[int] = []
    x = euler(
        lambda x, sigma: (mean * sigma**2 + x * std**2) / (sigma**2 + std**2),
        noise,
        karras_sigmas(num_steps, sigma_max=80.0, sigma_min=0.002, rho=7.0),
        seen.append,
    )
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(std, rel=tolerance)
    assert seen == list(range(1, num_steps + 1))
