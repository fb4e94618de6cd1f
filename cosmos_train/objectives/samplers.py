"""Noise levels, and the deterministic samplers that follow them down (Karras et al., arXiv 2206.00364).

A sampler takes (denoise, x, sigmas, on_step): denoise(x, sigma) is D(x; sigma), the estimate of the clean sample; x is
the first noisy one; sigmas fall, and may end at 0, which is the clean sample; on_step(n) is called after n steps.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int], None]


def karras_sigmas(num_levels: int, *, sigma_max: float, sigma_min: float, rho: float) -> Tensor:
    """[num_levels + 1] in fp64: sigma_max down to sigma_min, then 0 (equation 5)."""
    if num_levels == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    ramp = torch.linspace(0, 1, num_levels, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat(((high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)))


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """One evaluation a step, first order (equation 1)."""
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.tolist()), start=1):
        x = x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma
        on_step(step)
    return x


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """Two evaluations a step, second order: the slope is the mean of both ends' (algorithm 1). Euler's step to 0."""
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.tolist()), start=1):
        slope = (x - denoise(x, sigma)) / sigma
        following = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope = (slope + (following - denoise(following, sigma_next)) / sigma_next) / 2
            following = x + (sigma_next - sigma) * slope
        x = following
        on_step(step)
    return x


def exponential_multistep(denoise: Denoise, x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """One evaluation a step, second order from the second step on: the released code's `2ab` (arXiv 2308.02157).

    In time lambda = -ln sigma the flow is dx/dlambda = D - x: x decays by itself, and D is taken to be linear through
    its last two values. With h the step in lambda, that gives x <- e^-h x + h (phi_1 D + phi_2 h D'), phi_i at -h.
    """
    previous: tuple[Tensor, float] | None = None
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.tolist()), start=1):
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            x = x0
        else:
            h = math.log(sigma / sigma_next)
            phi_1, phi_2 = _phi(h)
            change = phi_1 * x0
            if previous is not None:
                earlier_x0, earlier_sigma = previous
                change = change + phi_2 * h * (x0 - earlier_x0) / math.log(earlier_sigma / sigma)
            x = math.exp(-h) * x + h * change
        previous = (x0, sigma)
        on_step(step)
    return x


def exponential_midpoint(denoise: Denoise, x: Tensor, sigmas: Tensor, on_step: OnStep) -> Tensor:
    """Two evaluations a step, second order: the released code's `2mid` (arXiv 2308.02157).

    As `exponential_multistep`, with D linear through its values at the step's begin and at half of it in lambda, where
    a step of first order leads.
    """
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.tolist()), start=1):
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            x = x0
        else:
            h, middle = math.log(sigma / sigma_next), math.sqrt(sigma * sigma_next)
            phi_1, phi_2 = _phi(h)
            middle_x0 = denoise(x0 + middle / sigma * (x - x0), middle)
            x = math.exp(-h) * x + h * (phi_1 * x0 + 2 * phi_2 * (middle_x0 - x0))
        on_step(step)
    return x


def _phi(h: float) -> tuple[float, float]:
    """phi_1 and phi_2 at -h: the means over a step of what is left of D, and of D' times the time since it began."""
    phi_1 = -math.expm1(-h) / h
    return phi_1, (1 - phi_1) / h


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Tensor, OnStep], Tensor]] = {
    "euler": euler,
    "heun": heun,
    "2ab": exponential_multistep,
    "2mid": exponential_midpoint,
}
"""sample.sampler -> what runs."""
