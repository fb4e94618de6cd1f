"""Which parameters are trained, and how fast: factors on the learning rate, by patterns of names."""

import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig, ParamKey, get_standard_config_overrides
from megatron.core.optimizer.optimizer_config import ParamPredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride
from torch import nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.mesh import Mesh


def lr_factor(name: str, factors: Mapping[str, float]) -> float:
    """Of the last pattern that fits the parameter's name; 1 where none does."""
    fitting = [factor for pattern, factor in factors.items() if fnmatch.fnmatchcase(name, pattern)]
    return fitting[-1] if fitting else 1.0


def freeze(pieces: Iterable[nn.Module], factors: Mapping[str, float]) -> None:
    """Parameters whose factor is 0 take no gradient: they cost neither its memory nor the optimizer's.

    What a model has frozen itself stays so.
    """
    for name, param in _named(pieces):
        if lr_factor(name, factors) == 0:
            param.requires_grad_(False)


def overrides(
    pieces: Sequence[nn.Module], factors: Mapping[str, float], config: OptimizerConfig, mesh: Mesh
) -> dict[ParamKey, ParamGroupOverride]:
    """megatron-core's own groups, which spare one-dimensional parameters the weight decay, and one for each factor.

    Raises:
        ConfigError: a pattern fits no parameter of the model, or nothing is left to train.
    """
    unused: list[set[str]] = [set() for _ in range(mesh.pp.size())]
    mine = {pattern for pattern in factors if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in _named(pieces))}
    dist.all_gather_object(unused, mine, group=mesh.pp)
    trains = [False for _ in range(mesh.pp.size())]  # a stage may be frozen as a whole
    dist.all_gather_object(trains, any(param.requires_grad for _, param in _named(pieces)), group=mesh.pp)
    if nowhere := set.intersection(*unused):
        some = ", ".join(name for name, _ in itertools.islice(_named(pieces), 3))
        raise ConfigError(
            f"optim.lr_factors has {', '.join(map(repr, sorted(nowhere)))}, which fits no parameter of this model; "
            f"its names are such as {some}"
        )
    if not any(trains):
        raise ConfigError(
            f"optim.lr_factors={dict(factors)} leaves nothing to train; give some pattern a factor above 0, after '*'"
        )
    of_factor: dict[float, set[int]] = {}
    for name, param in _named(pieces):
        of_factor.setdefault(lr_factor(name, factors), set()).add(id(param))
    return get_standard_config_overrides(config) | {
        _key(factor, members): cast(ParamGroupOverride, {"lr_mult": factor})
        for factor, members in of_factor.items()
        if factor not in (0, 1)
    }


def _key(factor: float, members: set[int]) -> ParamKey:
    return ParamKey(predicate=ParamPredicate(name=f"lr x {factor}", fn=lambda param: id(param) in members))


def _named(pieces: Iterable[nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    return itertools.chain.from_iterable(piece.named_parameters() for piece in pieces)
