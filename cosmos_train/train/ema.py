"""Moving averages of the weights: a plain one, and power-law ones from which other widths can be made later.

Averaged are the fp32 weights that the optimizer updates, not their bf16 copies, and each rank averages the slices that
it updates: an average costs 4 bytes per parameter over all replicas together, and no communication.

Power law (Karras et al., arXiv 2312.02696, section 3.1). The average after t steps gives the weights of step s the
weight p(s) = (gamma + 1) s^gamma / t^(gamma + 1): the same shape however long the run is. sigma_rel is its standard
deviation as a part of t. It is kept up by average <- beta average + (1 - beta) weights, beta = (1 - 1/t)^(gamma + 1),
which is exact: the weights of step s then count as the integral of p over (s - 1, s].
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.torch_private import lerp_each
from cosmos_train.train.config import MAX_SIGMA_REL, OptimConfig

PLAIN, POWER_LAW = "ema", "ema@"
"""Names of averages in checkpoints; a power-law one is followed by its width."""


@dataclass(frozen=True, slots=True)
class Plain:
    """average <- decay * average + (1 - decay) * weight, from the first weights on."""

    decay: float
    key: str = PLAIN
    """Name in checkpoints."""

    def keep(self, step: int) -> float:
        """How much of the average stays in the update of that step."""
        return self.decay


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The average whose relative width is sigma_rel."""

    sigma_rel: float

    @property
    def key(self) -> str:
        """Name in checkpoints."""
        return POWER_LAW + f"{self.sigma_rel:g}".replace(".", ",")  # a point ends the key in a tensor's name

    def keep(self, step: int) -> float:
        """beta of the update after that step, counted from 1: the first one takes the weights alone."""
        return (1 - 1 / step) ** (gamma_of(self.sigma_rel) + 1)


def width_of(key: str) -> float:
    """sigma_rel of a power-law average, by its name in checkpoints."""
    return float(key.removeprefix(POWER_LAW).replace(",", "."))


def profiles(optim: OptimConfig) -> list[Plain | PowerLaw]:
    """The averages that a run keeps."""
    plain = [Plain(optim.ema_decay)] if optim.ema_decay else []
    return [*plain, *(PowerLaw(sigma_rel) for sigma_rel in optim.ema_sigma_rels)]


class Ema:
    """All averages of a run, on this rank."""

    def __init__(self, engine: Engine, kept: Sequence[Plain | PowerLaw]) -> None:
        self.engine, self.kept = engine, kept
        self.masters = optimizer_state.masters(engine.optimizer, engine.pieces)
        self.parts: optimizer_state.Parts = {
            name: (where, {profile.key: master[optimizer_state.MASTER].detach().clone() for profile in kept})
            for name, (where, master) in self.masters.items()
        }

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the averages in checkpoints."""
        return tuple(profile.key for profile in self.kept)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        weights = [master[optimizer_state.MASTER] for _, master in self.masters.values()]
        for profile in self.kept:
            averages = [average[profile.key] for _, average in self.parts.values()]
            lerp_each(averages, weights, 1 - profile.keep(step))

    def states(self, keys: Sequence[str]) -> optimizer_state.Parts:
        """Some of the averages of the slices that this rank updates, the tensors themselves."""
        return {name: (where, {key: kept[key] for key in keys}) for name, (where, kept) in self.parts.items()}


@functools.cache
def gamma_of(sigma_rel: float) -> float:
    """The exponent of a relative width: sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for gamma > 0.

    ValueError where there is none: sigma_rel lies between 0 and that of the plain mean.
    """
    if not 0 < sigma_rel < MAX_SIGMA_REL:
        raise ConfigError(
            f"sigma_rel={sigma_rel} is no width of a power-law average; use a number between 0 and {MAX_SIGMA_REL:.3f}"
        )
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A power-law average as it stood after a step."""

    step: int
    sigma_rel: float


def reconstruction(snapshots: Sequence[Snapshot], wanted: Snapshot) -> tuple[list[float], float]:
    """Factors of the snapshots whose sum is closest to an average that was not kept (section 3.2, appendix C).

    Least squares over the profiles: the factors x minimise the integral of (p_wanted - sum x_i p_i)^2.

    Returns:
        The factors, and how much of p_wanted is missed: the root of that integral over the one of p_wanted^2.
    """
    products = np.array([[_inner_product(a, b) for b in snapshots] for a in snapshots])
    with_wanted = np.array([_inner_product(each, wanted) for each in snapshots])
    factors, *_ = np.linalg.lstsq(products, with_wanted, rcond=None)
    norm = _inner_product(wanted, wanted)
    missed = norm - 2 * factors @ with_wanted + factors @ products @ factors
    return factors.tolist(), math.sqrt(max(0.0, missed) / norm)


def _inner_product(a: Snapshot, b: Snapshot) -> float:
    """Integral of p_a p_b over time, in closed form: both are powers of t, and end at their steps."""
    early, late = sorted((a, b), key=lambda each: each.step)
    gamma_early, gamma_late = gamma_of(early.sigma_rel), gamma_of(late.sigma_rel)
    scale = (gamma_early + 1) * (gamma_late + 1) / (gamma_early + gamma_late + 1)
    return scale * (early.step / late.step) ** gamma_late / late.step
