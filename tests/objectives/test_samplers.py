"""Noise levels and steps as diffusers has them, and as a case with a closed form says they must be."""

import itertools
import math

import pytest
import torch
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor

from cosmos_train.objectives import edm
from cosmos_train.objectives.samplers import SAMPLERS, euler, exponential_midpoint, exponential_multistep, karras_sigmas

MEAN, STD = 0.7, 0.3
NOISE = torch.randn(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
START = NOISE * math.sqrt(80.0**2 + 1)


def ideal(x: Tensor, sigma: float) -> Tensor:
    """The ideal denoiser of data ~ N(MEAN, STD^2)."""
    return (MEAN * sigma**2 + x * STD**2) / (sigma**2 + STD**2)


def sample(sampler: str, num_steps: int) -> Tensor:
    sigmas = karras_sigmas(num_steps, sigma_max=80.0, sigma_min=0.002, rho=7.0)
    return SAMPLERS[sampler](ideal, START, sigmas, lambda _: None)


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
    ours = euler(ideal, START, karras_sigmas(12, sigma_max=80.0, sigma_min=0.0002, rho=7.0), lambda _: None)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_reaches_the_distribution(sampler: str):
    x = sample(sampler, 200)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2), ("2ab", 2), ("2mid", 2)])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(sampler: str, order: int):
    """The flow of a Gaussian in closed form: the distance from the mean shrinks as the deviation at sigma does.

    Between two levels above 0: the step to 0 is Euler's in every sampler.
    """

    def exact(sigma: float) -> Tensor:
        return MEAN + (START - MEAN) * math.hypot(sigma, STD) / math.hypot(80.0, STD)

    errors = []
    for num_steps in (40, 80, 160):
        sigmas = karras_sigmas(num_steps, sigma_max=80.0, sigma_min=0.1, rho=7.0)[:-1]
        reached = SAMPLERS[sampler](ideal, START, sigmas, lambda _: None)
        errors.append((reached - exact(0.1)).abs().mean().item())
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3), errors


def test_multistep_is_exact_where_the_estimate_is_linear_in_log_sigma():
    """dx/dlambda = D - x with D = a + b lambda has x = a - b + b lambda + c e^-lambda: any step size must follow it."""
    a, b, c = 0.3, -0.2, 5.0

    def solution(sigma: float) -> float:
        return a - b - b * math.log(sigma) + c * sigma

    def estimate(_x: Tensor, sigma: float) -> Tensor:
        return torch.tensor(a - b * math.log(sigma), dtype=torch.float64)

    sigmas = torch.tensor([3.9, 1.0, 0.2], dtype=torch.float64)
    x = torch.tensor([solution(3.9)], dtype=torch.float64)
    reached = exponential_multistep(estimate, x, sigmas, lambda _: None)
    first = exponential_multistep(estimate, x, sigmas[:2], lambda _: None)
    # The first step knows one value of D and is of first order; what it misses decays with the sample, e^-h.
    missed = first.item() - solution(1.0)
    assert abs(missed) > 1e-3
    assert reached.item() - solution(0.2) == pytest.approx(missed * 0.2, rel=1e-9)


def test_midpoint_is_exact_where_the_estimate_is_linear_in_log_sigma():
    """As above, from the first step on: D at a step's begin and middle is all there is to know of it."""
    a, b, c = 0.3, -0.2, 5.0

    def solution(sigma: float) -> float:
        return a - b - b * math.log(sigma) + c * sigma

    def estimate(_x: Tensor, sigma: float) -> Tensor:
        return torch.tensor(a - b * math.log(sigma), dtype=torch.float64)

    sigmas = torch.tensor([3.9, 1.0, 0.2], dtype=torch.float64)
    reached = exponential_midpoint(estimate, torch.tensor([solution(3.9)], dtype=torch.float64), sigmas, lambda _: None)
    assert reached.item() == pytest.approx(solution(0.2), rel=1e-12)


def test_midpoint_step_by_hand():
    """The state in the middle, where D is asked for, and the weights: phi_1 - 2 phi_2 of D before, 2 phi_2 of D there.

    phi_1 and phi_2 by their series, sum (-h)^n / (n + 1)! and sum (-h)^n / (n + 2)!.
    """
    asked: list[tuple[float, float]] = []

    def estimate(x: Tensor, sigma: float) -> Tensor:
        asked.append((x.item(), sigma))
        return x.cos()

    x, begin, end = 2.0, 0.9, 0.4
    h = math.log(begin) - math.log(end)
    phi_1, phi_2 = (sum((-h) ** n / math.factorial(n + k) for n in range(30)) for k in (1, 2))
    middle = (begin * end) ** 0.5
    x_middle = middle / begin * x + (1 - middle / begin) * math.cos(x)
    wanted = end / begin * x + h * ((phi_1 - 2 * phi_2) * math.cos(x) + 2 * phi_2 * math.cos(x_middle))
    sigmas = torch.tensor([begin, end], dtype=torch.float64)
    found = exponential_midpoint(estimate, torch.tensor(x, dtype=torch.float64), sigmas, lambda _: None)
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    assert asked == [(x, begin), (pytest.approx(x_middle), pytest.approx(middle))]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_last_step_to_zero_is_the_estimate(sampler: str):
    sigmas = torch.tensor([2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(SAMPLERS[sampler](ideal, START, sigmas, lambda _: None), ideal(START, 2.0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_says_when_a_step_is_done(sampler: str):
    seen: list[int] = []
    SAMPLERS[sampler](ideal, NOISE[:1], karras_sigmas(3, sigma_max=80.0, sigma_min=0.002, rho=7.0), seen.append)
    assert seen == [1, 2, 3]
