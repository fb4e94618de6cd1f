"""Noise levels and Euler steps as diffusers has them, and as a case with a closed form says they must be."""

import itertools
import math

import pytest
import torch
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor

from cosmos_train.objectives import edm
from cosmos_train.objectives.samplers import euler, karras_sigmas

MEAN, STD = 0.7, 0.3
NOISE = torch.randn(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def ideal(x: Tensor, sigma: float) -> Tensor:
    """The ideal denoiser of data ~ N(MEAN, STD^2)."""
    return (MEAN * sigma**2 + x * STD**2) / (sigma**2 + STD**2)


def sample(num_steps: int) -> Tensor:
    return euler(ideal, NOISE, karras_sigmas(num_steps, sigma_max=80.0, sigma_min=0.002, rho=7.0), lambda _: None)


@pytest.mark.parametrize("num_steps", [1, 2, 35])
def test_sigmas_are_diffusers(num_steps: int):
    scheduler = EDMEulerScheduler(sigma_min=0.0002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(num_steps)
    ours = karras_sigmas(num_steps, sigma_max=80.0, sigma_min=0.0002, rho=7.0)
    assert ours.dtype == torch.float64 and len(ours) == num_steps + 1
    torch.testing.assert_close(ours.float(), scheduler.sigmas.float(), rtol=1e-6, atol=0)


def test_sigmas_by_hand():
    """Equation 5 of the paper at the ends and in the middle."""
    ours = karras_sigmas(3, sigma_max=81.0, sigma_min=1.0, rho=4.0).tolist()
    assert ours == pytest.approx([81.0, 16.0, 1.0, 0.0], rel=1e-14)  # fourth roots 3, 2, 1


def test_steps_are_diffusers():
    """The same network output at every step, from the same noise."""
    scheduler = EDMEulerScheduler(sigma_min=0.0002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(12)
    theirs = NOISE.float() * scheduler.init_noise_sigma
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        scheduler.scale_model_input(theirs, time)
        output = (ideal(theirs, sigma.item()) - edm.c_skip(sigma, 0.5) * theirs) / edm.c_out(sigma, 0.5)
        theirs = scheduler.step(output, time, theirs, return_dict=False)[0]
    ours = euler(ideal, NOISE, karras_sigmas(12, sigma_max=80.0, sigma_min=0.0002, rho=7.0), lambda _: None)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4)


def test_reaches_the_distribution():
    x = sample(200)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(STD, rel=0.02)


def test_twice_the_steps_halve_the_error():
    """The flow of a Gaussian in closed form: the distance from the mean shrinks as the deviation at sigma does."""
    start = NOISE * math.sqrt(80.0**2 + 1)
    exact = MEAN + (start - MEAN) * STD / math.sqrt(80.0**2 + STD**2)
    errors = [(sample(num_steps) - exact).abs().mean().item() for num_steps in (20, 40, 80, 160)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.4, errors


def test_says_when_a_step_is_done():
    seen: list[int] = []
    euler(ideal, NOISE[:1], karras_sigmas(3, sigma_max=80.0, sigma_min=0.002, rho=7.0), seen.append)
    assert seen == [1, 2, 3]
