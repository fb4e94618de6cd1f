"""Noise levels and the deterministic Euler sampler (Karras et al., arXiv 2206.00364, equations 5 and 1)."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor


def karras_sigmas(num_steps: int, *, sigma_max: float, sigma_min: float, rho: float) -> Tensor:
    """[num_steps + 1] in fp64: sigma_max down to sigma_min, then 0."""
    if num_steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat(((high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)))


def euler(
    denoise: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: Tensor, on_step: Callable[[int], None]
) -> Tensor:
    """Follow the probability flow from noise * sqrt(sigma_max^2 + 1), the released code's start, to a clean sample.

    Args:
        denoise: (x, sigma) -> D(x; sigma), the estimate of the clean sample.
        noise: standard normal.
        on_step: called with the number of finished steps.
    """
    x = noise * (sigmas[0].item() ** 2 + 1) ** 0.5
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.tolist()), start=1):
        x = x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma
        on_step(step)
    return x
