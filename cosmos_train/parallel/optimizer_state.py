"""The optimizer's state as one tensor per parameter and kind, whatever ranks hold it: what checkpoints keep.

megatron-core's distributed optimizer gives each rank that has a parameter a slice of one long buffer, so a rank holds
parts of some parameters. Its own layout-free format (`fully_reshardable`, 0.16.1) reads that buffer as if it had no
padding between buckets; where it has, states of other parameters come out, with a log line. So we put them together
ourselves.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor, nn

from cosmos_train.parallel.mesh import Mesh

MOMENTS = ("exp_avg", "exp_avg_sq")
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
    """{name: {kind: fp32 tensor of the parameter's shape on this rank, on the CPU}}.

    Each parameter's state is put together on one of the ranks that have it, in turn, and only in that rank's answer: so
    all of them write a part of a checkpoint, and no device holds more than one whole state more than it has.
    """
    _make_moments(optimizer)
    found: dict[str, dict[str, Tensor]] = {}
    kinds = state_kinds(param for _, param in _trained(pieces))
    for number, (name, param) in enumerate(_trained(pieces)):
        writer = number % mesh.replicas.size()
        part = _part(optimizer, param)
        for kind in kinds:
            flat = torch.zeros(param.numel(), dtype=torch.float32, device=mesh.device)
            if part is not None:
                part_slice, states = part
                flat[part_slice] = states[kind].flatten()
            dist.reduce(flat, dst=dist.get_global_rank(mesh.replicas, writer), group=mesh.replicas)
            if mesh.replicas.rank() == writer:
                found.setdefault(name, {})[kind] = flat.view(param.shape).cpu()
    return found


def empty(pieces: Sequence[nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The same dictionary for all of this rank's parameters, to be read into."""
    kinds = state_kinds(param for _, param in _trained(pieces))
    return {name: {kind: torch.empty(p.shape, dtype=torch.float32) for kind in kinds} for name, p in _trained(pieces)}


@torch.no_grad()
def distribute(optimizer: MegatronOptimizer, pieces: Sequence[nn.Module], states: dict[str, dict[str, Tensor]]) -> None:
    """Take this rank's slices out of whole states."""
    _make_moments(optimizer)
    for name, param in _trained(pieces):
        part = _part(optimizer, param)
        if part is None:
            continue
        part_slice, mine = part
        for kind, whole in states[name].items():
            mine[kind].copy_(whole.flatten()[part_slice])


def _trained(pieces: Sequence[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    return [(name, param) for piece in pieces for name, param in piece.named_parameters() if param.requires_grad]


def _distributed(optimizer: MegatronOptimizer) -> DistributedOptimizer:
    [only] = optimizer.chained_optimizers  # pyright: ignore[reportAttributeAccessIssue] ChainedOptimizer's
    assert isinstance(only, DistributedOptimizer)
    return only


def _part(optimizer: MegatronOptimizer, param: nn.Parameter) -> tuple[slice, dict[str, Tensor]] | None:
    """(this rank's slice of the flat parameter, its states), or None where another rank holds all of it."""
    inner = _distributed(optimizer)
    if param not in inner.model_param_group_index_map:
        return None
    held = inner._get_model_param_range_map(param)["param"]
    return slice(held.start, held.end), inner._get_main_param_and_optimizer_states(param)


def _make_moments(optimizer: MegatronOptimizer) -> None:
    """Zeros where no step has made the moments yet."""
    inner = _distributed(optimizer)
    inner.init_state_fn(inner.optimizer, inner.config)
