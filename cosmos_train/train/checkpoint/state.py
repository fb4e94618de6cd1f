"""What of a run this rank has, described to megatron-core as parts of whole tensors, which name no layout."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor, nn

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.flat_range import boxes, equal_share
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import is_in_base, is_shared_over_stages, partition_dim, plain, whole_shape
from cosmos_train.train.ema import Ema


def tensors_of(pieces: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return what a checkpoint holds of the model by name: parameters and persistent buffers themselves, for what they
    are marked with. The model that adapters are of lies elsewhere."""
    kept = itertools.chain.from_iterable(piece.state_dict(keep_vars=True).items() for piece in pieces)
    return {name: tensor for name, tensor in kept if isinstance(tensor, Tensor) and not is_in_base(tensor)}


def describe_run(engine: Engine, ema: Ema | None) -> dict[str, Any]:
    """Describe all tensors that this rank writes."""
    # All ranks of `replicas` have the same weights: each writes an equal part of their bytes.
    weights, replicas = tensors_of(engine.pieces), engine.mesh.replicas
    plain_ones = {f"model.{name}": plain(t).detach().flatten() for name, t in weights.items()}
    sizes = [(flat.numel(), flat.element_size()) for flat in plain_ones.values()]
    shares = equal_share(sizes, replicas.rank(), replicas.size())
    state: dict[str, Any] = {}
    for (key, flat), like, where in zip(plain_ones.items(), weights.values(), shares, strict=True):
        for number, box in enumerate(_boxes(key, flat[where], where, like, engine.mesh)):
            state[f"{key} {number}"] = box
    return state | describe_updated(engine, ema)


def describe_updated(engine: Engine, ema: Ema | None) -> dict[str, ShardedTensor]:
    """Describe the parts of the optimizer's state and of averages that this rank updates: no other rank has them."""
    found = describe_slices(optimizer_state.states(engine.optimizer, engine.pieces), engine, prefix="optimizer.")
    return found if ema is None else found | describe_slices(ema.states(ema.keys), engine, prefix="")


def describe_slices(parts: optimizer_state.Parts, engine: Engine, *, prefix: str) -> dict[str, ShardedTensor]:
    """Describe slices of each parameter's states as parts of one tensor for each, called prefix + kind.name."""
    tensors = tensors_of(engine.pieces)
    found: dict[str, ShardedTensor] = {}
    for name, (where, kinds) in parts.items():
        for kind, flat in kinds.items():
            key = f"{prefix}{kind}.{name}"
            for number, box in enumerate(_boxes(key, flat.flatten(), where, tensors[name], engine.mesh)):
                found[f"{key} {number}"] = box
    return found


def describe_whole(key: str, data: Tensor, like: Tensor, mesh: Mesh) -> ShardedTensor:
    """Describe all that this rank has of a tensor which is divided as parameter `like` is."""
    dim = partition_dim(like)
    offsets = () if dim is None else ((dim, mesh.tp.rank(), mesh.tp.size()),)
    copy = (*_copy_of(like, mesh), mesh.replicas.rank())
    return ShardedTensor.from_rank_offsets(key, data, *offsets, replica_id=copy)


def _boxes(key: str, flat: Tensor, where: slice, like: Tensor, mesh: Mesh) -> Iterator[ShardedTensor]:
    """Describe a slice of a tensor, which is divided as parameter `like` is, as boxes of the undivided one."""
    shape, dim, begin = tuple(like.shape), partition_dim(like), 0
    for inner, sizes in boxes(shape, where):
        data = flat[begin : begin + math.prod(sizes)].view(sizes)
        begin += data.numel()
        offsets = [offset + (mesh.tp.rank() * shape[d] if d == dim else 0) for d, offset in enumerate(inner)]
        whole = whole_shape(like, mesh)
        yield ShardedTensor(key, data, data.dtype, sizes, whole, tuple(offsets), None, (*_copy_of(like, mesh), 0))


def _copy_of(like: Tensor, mesh: Mesh) -> tuple[int, int]:
    """Return this rank's copy of what several stages, or tensor-parallel ranks, have alike: (0, 0) is written."""
    stage = mesh.pp.rank() if is_shared_over_stages(like) else 0
    return stage, mesh.tp.rank() if partition_dim(like) is None else 0
