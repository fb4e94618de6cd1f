"""The optimizer's state as one tensor per parameter and kind, whatever ranks hold it: what checkpoints keep.

megatron-core's distributed optimizer gives each rank that has a parameter a slice of one long buffer, so a rank holds
parts of some parameters. Its own layout-free format (`fully_reshardable`, 0.16.1) reads that buffer as if it had no
padding between buckets; where it has, states of other parameters come out, with a log line. So we put them together
ourselves.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, nn

from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import put_in_place

MOMENTS = ("exp_avg", "exp_avg_sq")
Parts = dict[str, tuple[slice, dict[str, Tensor]]]
"""Name of a parameter -> (which slice of it, flattened, this rank updates; kind -> values of that slice)."""
MASTER = "param"
"""megatron-core's name of the fp32 master weights, which there are only where the model's are of another format."""


def state_kinds(params: Iterable[nn.Parameter]) -> tuple[str, ...]:
    """What is kept of every parameter: Adam's moments, and master weights of a model that is not fp32."""
    return MOMENTS if all(p.dtype == torch.float32 for p in params) else (*MOMENTS, MASTER)


def adam_step(optimizer: MegatronOptimizer) -> int:
    """Updates made so far; Adam's bias correction depends on it."""
    return max(int(group.get("step", 0)) for group in optimizer.param_groups)


def set_adam_step(optimizer: MegatronOptimizer, step: int) -> None:
    """Continue counting from here."""
    for group in optimizer.param_groups:
        group["step"] = step


def collect(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module], mesh: Mesh) -> dict[str, dict[str, Tensor]]:
    """The optimizer's own state as `put_together` gives it."""
    _make_moments(optimizer)
    kinds = state_kinds(param for _, param in _trained(pieces))
    return put_together(_parts(optimizer, pieces), kinds, pieces, mesh)


def put_together(
    parts: Parts, kinds: Sequence[str], pieces: Sequence[nn.Module], mesh: Mesh
) -> dict[str, dict[str, Tensor]]:
    """{name: {kind: fp32 tensor of the parameter's shape on this rank, on the CPU}}.

    Each parameter's state is put together on one of the ranks that have it, in turn, and only in that rank's answer: so
    all of them write a part of a checkpoint, and no device holds more than one whole state more than it has.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for number, (name, param) in enumerate(_trained(pieces)):
        writer = number % mesh.replicas.size()
        for kind in kinds:
            if mesh.replicas.size() == 1:  # there is nothing to put together
                found.setdefault(name, {})[kind] = parts[name][1][kind].view(param.shape).cpu()
                continue
            flat = torch.zeros(param.numel(), dtype=torch.float32, device=mesh.device)
            if name in parts:
                part_slice, states = parts[name]
                flat[part_slice] = states[kind].flatten()
            dist.reduce(flat, dst=dist.get_global_rank(mesh.replicas, writer), group=mesh.replicas)
            if mesh.replicas.rank() == writer:
                found.setdefault(name, {})[kind] = flat.view(param.shape).cpu()
    return found


def to_read(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> dict[str, dict[str, Tensor]]:
    """What the optimizer's own state is read into, as `places` gives it."""
    _make_moments(optimizer)
    return places(_parts(optimizer, pieces), state_kinds(param for _, param in _trained(pieces)), pieces)


def places(parts: Parts, kinds: Sequence[str], pieces: Sequence[nn.Module]) -> dict[str, dict[str, Tensor]]:
    """{name: {kind: fp32 tensor of the parameter's shape on this rank}}, to be read into, of what it has a part of.

    Where its part is the whole parameter, that is the state itself, and nothing is left to `take_apart`; else it is
    memory on the CPU.
    """
    shapes = {name: param.shape for name, param in _trained(pieces)}
    return {name: {kind: _place(states[kind], shapes[name]) for kind in kinds} for name, (_, states) in parts.items()}


def _place(part: Tensor, shape: torch.Size) -> Tensor:
    is_whole = part.numel() == shape.numel() and part.dtype == torch.float32 and part.is_contiguous()
    return part.detach().view(shape) if is_whole else torch.empty(shape, dtype=torch.float32)


def distribute(
    optimizer: MegatronOptimizer, pieces: Sequence[nn.Module], states: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Take this rank's slices out of whole states, into the optimizer."""
    _make_moments(optimizer)
    take_apart(_parts(optimizer, pieces), states)


def take_apart(parts: Parts, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put this rank's slices of whole states where they belong."""
    for name, (part_slice, mine) in parts.items():
        for kind, whole in states[name].items():
            put_in_place(mine[kind], whole.flatten()[part_slice].view(mine[kind].shape))


def masters(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> Parts:
    """The fp32 weights that this rank updates, as kind `param`: of an fp32 model a part of the weights themselves."""
    parts = _parts(optimizer, pieces)
    return {name: (where, {MASTER: states[MASTER]}) for name, (where, states) in parts.items()}


def gradients(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The flat part of each gradient that this rank updates with, once they are summed over the replicas."""
    slices = _slices(optimizer)
    return {
        name: param.main_grad.flatten()[slices[param]]  # pyright: ignore[reportAttributeAccessIssue] megatron-core's
        for name, param in _trained(pieces)
        if param in slices
    }


def _trained(pieces: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [(name, param) for piece in pieces for name, param in piece.named_parameters() if param.requires_grad]


def _distributed(optimizer: MegatronOptimizer) -> DistributedOptimizer:
    [only] = optimizer.chained_optimizers  # pyright: ignore[reportAttributeAccessIssue] ChainedOptimizer's
    assert isinstance(only, DistributedOptimizer)
    return only


def _slices(optimizer: MegatronOptimizer) -> dict[nn.Parameter, slice]:
    """Which slice of each flat parameter this rank updates; those of which it updates nothing are left out."""
    inner = _distributed(optimizer)
    held = {param: inner._get_model_param_range_map(param)["param"] for param in inner.model_param_group_index_map}
    return {param: slice(where.start, where.end) for param, where in held.items()}


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
