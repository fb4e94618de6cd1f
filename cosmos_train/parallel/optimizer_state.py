"""The optimizer's state by the name of a parameter and its kind, as slices of the flattened parameter.

megatron-core's distributed optimizer gives each rank that has a parameter a slice of one long buffer, so a rank holds
parts of some parameters. Its own layout-free format (`fully_reshardable`, 0.16.1) reads that buffer as if it had no
padding between buckets; where it has, states of other parameters come out, with a log line. So checkpoints are made of
these slices.
"""

import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, nn

from cosmos_train.parallel.mcore_private import slice_updated_here
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import gradient_sum

MOMENTS = ("exp_avg", "exp_avg_sq")
Parts = dict[str, tuple[slice, dict[str, Tensor]]]
"""Name of a parameter -> (which slice of it, flattened, this rank updates; kind -> fp32 values of that slice, [N])."""
MASTER = "param"
"""megatron-core's name of the fp32 master weights, which there are only where the model's are of another format."""


def state_kinds(params: Iterable[nn.Parameter]) -> tuple[str, ...]:
    """What is kept of every parameter: Adam's moments, and master weights of a model that is not fp32."""
    return MOMENTS if all(p.dtype == torch.float32 for p in params) else (*MOMENTS, MASTER)


def adam_step(optimizer: MegatronOptimizer, mesh: Mesh) -> int:
    """Updates made so far, the same on every rank, all of which call this; Adam's bias correction depends on it.

    The largest count of all: TransformerEngine's Adam does not count in groups of which a rank has no parameter.
    """
    mine = max((int(group.get("step", 0)) for group in optimizer.param_groups), default=0)
    most = torch.tensor(mine, device=mesh.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX, group=mesh.world)
    return int(most)


def set_adam_step(optimizer: MegatronOptimizer, step: int) -> None:
    """Continue counting from here."""
    for group in optimizer.param_groups:
        group["step"] = step


def states(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> Parts:
    """All that the optimizer keeps of the slices that this rank updates, the tensors themselves."""
    _make_moments(optimizer)
    kinds = state_kinds(param for _, param in _trained(pieces))
    parts = _parts(optimizer, pieces)
    return {name: (where, {kind: kept[kind] for kind in kinds}) for name, (where, kept) in parts.items()}


def masters(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> Parts:
    """The fp32 weights that this rank updates, as kind `param`: of an fp32 model a part of the weights themselves."""
    parts = _parts(optimizer, pieces)
    return {name: (where, {MASTER: states[MASTER]}) for name, (where, states) in parts.items()}


def gradients(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The flat part of each gradient that this rank updates with, once they are summed over the replicas."""
    slices = _slices(optimizer)
    return {name: gradient_sum(param).flatten()[slices[param]] for name, param in _trained(pieces) if param in slices}


def _trained(pieces: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    named = itertools.chain.from_iterable(piece.named_parameters() for piece in pieces)
    return [(name, param) for name, param in named if param.requires_grad]


def _distributed(optimizer: MegatronOptimizer) -> DistributedOptimizer:
    [only] = optimizer.chained_optimizers  # pyright: ignore[reportAttributeAccessIssue] ChainedOptimizer's
    assert isinstance(only, DistributedOptimizer)
    return only


def _slices(optimizer: MegatronOptimizer) -> dict[nn.Parameter, slice]:
    """Which slice of each flat parameter this rank updates; those of which it updates nothing are left out."""
    inner = _distributed(optimizer)
    return {param: slice_updated_here(inner, param) for param in inner.model_param_group_index_map}


def _parts(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> Parts:
    """This rank's slices, with their fp32 weights and what the optimizer keeps of them.

    Not by upstream's `_get_main_param_and_optimizer_states`: in a group of bf16 and fp32 parameters (a network and its
    fp32 uncertainty) it answers with the state of another parameter, because the optimizer has the fp32 ones first.
    """
    inner, slices = _distributed(optimizer), _slices(optimizer)
    updated = {}
    for of_model, of_optimizer in (
        (inner.model_float16_groups, inner.shard_fp32_from_float16_groups),
        (inner.model_fp32_groups, inner.shard_fp32_groups),
    ):
        for params, shards in zip(of_model, of_optimizer, strict=True):
            updated.update(zip(params, shards, strict=True))
    return {
        name: (slices[param], {MASTER: updated[param], **inner.optimizer.state[updated[param]]})
        for name, param in _trained(pieces)
        if param in slices
    }


def _make_moments(optimizer: MegatronOptimizer) -> None:
    """Zeros where no step has made the moments yet."""
    inner = _distributed(optimizer)
    inner.init_state_fn(inner.optimizer, inner.config)
