"""Checkpoints: one folder each, complete or absent, readable by any layout (megatron-core's dist_checkpointing).

    RUN/checkpoints/step-00000200/
        *.distcp, .metadata, common.pt, metadata.json     megatron-core's: model, optimizer, moving averages
        run.yaml                                          the run as it was configured
        digests.json                                      SHA-256 of each file, compared before it is read
        complete.json                                     written last: step, samples consumed, digests, W&B id, version

It is written as step-00000200.partial and renamed; a folder without complete.json is never read. There is no generator
state in it: what is random in a run is a function of the seed and the sample's index.

Where a run starts, in this order:
  1. its own newest complete checkpoint that is whole
  2. checkpoint.resume_from   another run's checkpoint: weights, optimizer, step
  3. checkpoint.init_from     another run's weights, or another project's (Task.warm_start), step 0
  4. scratch
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch import Tensor, nn

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import partition_dim, plain, put_in_place, whole_shape
from cosmos_train.train.checkpoint_folder import (
    CHECKPOINTS,
    CheckpointError,
    Progress,
    damage_of,
    list_checkpoints,
    list_damaged,
    remove_partial,
    resolve,
    set_aside,
)
from cosmos_train.train.checkpoint_folder import FORMAT as FORMAT
from cosmos_train.train.checkpoint_folder import MARKER as MARKER
from cosmos_train.train.checkpoint_folder import SNAPSHOTS as SNAPSHOTS
from cosmos_train.train.checkpoint_folder import newest_checkpoint as newest_checkpoint
from cosmos_train.train.checkpoint_folder import read_progress as read_progress
from cosmos_train.train.checkpoint_read import read_in_place
from cosmos_train.train.checkpoint_save import Saved as Saved
from cosmos_train.train.checkpoint_save import Saver as Saver
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.ema import PLAIN, Ema

log = logging.getLogger(__name__)
read_in_place()


@dataclass(frozen=True, slots=True)
class Source:
    """Where the run starts from."""

    folder: Path | None
    weights_only: bool
    reason: str


def choose_source(run_dir: Path, config: CheckpointConfig, mesh: Mesh) -> Source:
    """The numbered list above, the same on every rank. What a crash left half-written is removed on the way.

    Raises:
        CheckpointError: a named checkpoint is not a complete one, or damaged; or all of the run's own are.
    """
    if mesh.is_main:
        remove_partial(run_dir)
    # One rank looks: over a network file system, others may not see the newest folder yet.
    listed = [(list_checkpoints(run_dir), list_damaged(run_dir)) if mesh.is_main else None]
    dist.broadcast_object_list(listed, src=0, group=mesh.world, device=mesh.device)
    assert listed[0] is not None
    own, damaged_before = listed[0]
    for folder in reversed(own):
        damage = _damage(folder, config, mesh)
        if not damage:
            is_newest = folder == own[-1]
            reason = "this run's newest checkpoint" + ("" if is_newest else " that is whole: a newer one is damaged")
            return Source(folder, weights_only=False, reason=reason)
        if mesh.is_main:
            set_aside(folder)
            log.warning("%s is damaged (%s) and set aside; going back to the one before it", folder, damage)
    if own or damaged_before:  # to start from scratch here would be a loss that nobody sees
        raise CheckpointError(
            f"all {len(own) + len(damaged_before)} checkpoints of {run_dir} are damaged and were set aside; restore "
            "one, which step-N.damaged -> step-N gives its name back, or start afresh with another run_dir"
        )
    if config.resume_from is not None:
        folder = resolve(Path(config.resume_from))
        if damage := _damage(folder, config, mesh):
            raise CheckpointError(f"{folder} is damaged ({damage}); restore it, or name another one")
        return Source(folder, weights_only=False, reason="checkpoint.resume_from")
    if config.init_from is not None:
        return Source(Path(config.init_from), weights_only=True, reason="checkpoint.init_from (weights only)")
    return Source(None, weights_only=False, reason="scratch: the run has no checkpoint and names none")


def _damage(folder: Path, config: CheckpointConfig, mesh: Mesh) -> str:
    """What differs from its digests, where checkpoint.verify asks for that; the same on every rank."""
    if not config.verify:
        return ""
    found: list[Any] = [None] * mesh.world.size()
    mine = damage_of(folder, part=mesh.world.rank(), num_parts=mesh.world.size())  # ranks share the reading
    dist.all_gather_object(found, mine, group=mesh.world)
    return "; ".join(phrase for of_rank in found for phrase in of_rank)


def save(saver: Saver, run_dir: Path, engine: Engine, ema: Ema | None, progress: Progress, run_yaml: str) -> None:
    """Save where the run stands.

    Raises:
        CheckpointError: as Saver.save does.
    """
    final = run_dir / CHECKPOINTS / f"step-{progress.step:08d}"
    saver.save(final, lambda: _state(engine, ema, is_loading=False), progress, run_yaml)


def save_snapshot(saver: Saver, run_dir: Path, engine: Engine, ema: Ema, progress: Progress, run_yaml: str) -> None:
    """Save the power-law averages alone in RUN/ema/step-..., where all stay: `cosmos-train ema` reads them.

    Raises:
        CheckpointError: as Saver.save does.
    """
    final = run_dir / SNAPSHOTS / f"step-{progress.step:08d}"
    keys = [key for key in ema.keys if key != PLAIN]
    saver.save(final, lambda: _ema_state(engine, ema, keys, is_loading=False), progress, run_yaml)


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], mesh: Mesh, progress: Progress, run_yaml: str) -> None:
    """Write whole tensors by their names in a checkpoint, from one process, as a folder that checkpoints are read from.

    Raises:
        CheckpointError: as Saver.save does.
    """
    state = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in tensors.items()}
    Saver(mesh).save(folder, lambda: state, progress, run_yaml)


def tensor_names(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and number format of every tensor in a checkpoint's folder, by its name there."""
    found = dist_checkpointing.load_tensors_metadata(str(folder))
    return {name: (tuple(t.global_shape), t.dtype) for name, t in found.items() if isinstance(t, ShardedTensor)}


def read_tensors(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint's folder, by their names there."""
    known = tensor_names(folder)
    empty = {name: torch.empty(known[name][0], dtype=known[name][1]) for name in names}
    wanted = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in empty.items()}
    return _read({"tensors": wanted}, folder, StrictHandling.RAISE_UNEXPECTED)["tensors"]


def load(folder: Path, engine: Engine, ema: Ema | None) -> None:
    """Read weights, optimizer and moving averages into this layout.

    Raises:
        CheckpointError: the checkpoint is of another architecture; the message names the first differing tensors.
    """
    check_architecture(folder, engine.pieces, engine.mesh)
    state = _read(_state(engine, ema, is_loading=True), folder, StrictHandling.RAISE_ALL)
    _copy_into(state["model"], _tensors(engine.pieces))
    if ema is not None:
        ema.load(_by_parameter(state["ema"]))
    optimizer_state.distribute(engine.optimizer, engine.pieces, _by_parameter(state["optimizer"]))
    optimizer_state.set_adam_step(engine.optimizer, state["adam_step"])


def load_weights(folder: Path, pieces: Sequence[nn.Module], mesh: Mesh, *, averaged: bool = False) -> None:
    """Read the weights alone; their moving average instead, where `averaged`."""
    check_architecture(folder, pieces, mesh)
    wanted = _tensors(pieces)
    # Buffers, and parameters that were not trained, have no average.
    average = {name for name in tensor_names(folder) if name.startswith(f"{PLAIN}.")} if averaged else set()
    sharded = {}
    for name, tensor in wanted.items():
        key = f"{PLAIN}.{name}" if f"{PLAIN}.{name}" in average else f"model.{name}"
        data = torch.empty_like(plain(tensor), dtype=torch.float32 if key in average else tensor.dtype)
        sharded[name] = _sharded(key, data, tensor, mesh, copy=mesh.replicas.rank())
    # The checkpoint's optimizer is left aside, so keys that are not asked for are no error here.
    _copy_into(_read({"model": sharded}, folder, StrictHandling.RAISE_UNEXPECTED)["model"], wanted)


def has_average(folder: Path) -> bool:
    """Whether the checkpoint has a plain moving average of the weights."""
    return any(name.startswith(f"{PLAIN}.") for name in tensor_names(folder))


def check_architecture(folder: Path, pieces: Sequence[nn.Module], mesh: Mesh) -> None:
    """Compare names and whole shapes of the model's tensors with the checkpoint's, over all pipeline stages."""
    mine: dict[str, tuple[int, ...]] = {name: whole_shape(t, mesh) for name, t in _tensors(pieces).items()}
    stages: list[dict[str, tuple[int, ...]]] = [{} for _ in range(mesh.pp.size())]
    dist.all_gather_object(stages, mine, group=mesh.pp)
    wanted = {name: shape for stage in stages for name, shape in stage.items()}
    stored = {
        key.removeprefix("model."): shape
        for key, (shape, _) in tensor_names(folder).items()
        if key.startswith("model.")
    }
    differences = [
        f"{name}: {_shape(stored.get(name))} in the checkpoint, {_shape(wanted.get(name))} in this run"
        for name in sorted(wanted.keys() | stored.keys())
        if wanted.get(name) != stored.get(name)
    ]
    if differences:
        raise CheckpointError(
            f"{folder} is of another architecture; {len(differences)} tensors differ, first: "
            + "; ".join(differences[:3])
            + ". Use the sizes of its run.yaml, or another run_dir to start afresh"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))


def _tensors(pieces: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; parameters themselves, for what they are marked with."""
    kept = itertools.chain.from_iterable(piece.state_dict(keep_vars=True).items() for piece in pieces)
    return {name: tensor for name, tensor in kept if isinstance(tensor, Tensor)}


def _sharded(key: str, data: Tensor, like: Tensor, mesh: Mesh, *, copy: int) -> ShardedTensor:
    """Describe a tensor that is divided as parameter `like` is, and which of its copies is the one to write."""
    dim = partition_dim(like)
    offsets = () if dim is None else ((dim, mesh.tp.rank(), mesh.tp.size()),)
    tp_copy = mesh.tp.rank() if dim is None else 0
    pp_copy = mesh.pp.rank() if getattr(like, "shared_over_stages", False) else 0
    return ShardedTensor.from_rank_offsets(key, data, *offsets, replica_id=(pp_copy, tp_copy, copy))


def _state(engine: Engine, ema: Ema | None, *, is_loading: bool) -> dict[str, Any]:
    mesh, tensors = engine.mesh, _tensors(engine.pieces)
    # The ranks that have a tensor take turns in writing, as they do with the optimizer's states.
    num_copies, rank = mesh.replicas.size(), mesh.replicas.rank()
    state: dict[str, Any] = {
        "model": {
            name: _sharded(f"model.{name}", plain(t), t, mesh, copy=(rank + number) % num_copies)
            for number, (name, t) in enumerate(tensors.items())
        }
    }
    if ema is not None:
        state["ema"] = _ema_state(engine, ema, ema.keys, is_loading=is_loading)
    if is_loading:
        state["optimizer"] = _to_read(
            optimizer_state.to_read(engine.optimizer, engine.pieces), engine, prefix="optimizer."
        )
    else:
        optimizer = optimizer_state.collect(engine.optimizer, engine.pieces, mesh)
        state["optimizer"] = _divided(optimizer, engine, prefix="optimizer.")
        state["adam_step"] = optimizer_state.adam_step(engine.optimizer)
    return state


def _ema_state(engine: Engine, ema: Ema, keys: Sequence[str], *, is_loading: bool) -> dict[str, ShardedTensor]:
    if is_loading:
        return _to_read(ema.to_read(keys), engine, prefix="")
    return _divided(ema.whole(keys), engine, prefix="")


def _to_read(states: Mapping[str, Mapping[str, Tensor]], engine: Engine, *, prefix: str) -> dict[str, ShardedTensor]:
    """Of the states of which this rank has a part, so that none of the ranks that divide them reads all."""
    group = engine.mesh.replicas
    held: list[Any] = [None] * group.size()
    dist.all_gather_object(held, set(states), group=group)
    before = {name: sum(name in names for names in held[: group.rank()]) for name in states}
    return _divided(states, engine, prefix=prefix, copies=before)


def _divided(
    states: Mapping[str, Mapping[str, Tensor]], engine: Engine, *, prefix: str, copies: Mapping[str, int] | None = None
) -> dict[str, ShardedTensor]:
    """{kind, name: that kind of state, divided as the parameter is}, stored as prefix + kind.name.

    copies: which of the copies this rank's is; none: there is one alone, as of what was put together.
    """
    tensors = _tensors(engine.pieces)
    return {
        f"{kind} {name}": _sharded(
            f"{prefix}{kind}.{name}", tensor, tensors[name], engine.mesh, copy=0 if copies is None else copies[name]
        )
        for name, kinds in states.items()
        for kind, tensor in kinds.items()
    }


def _by_parameter(states: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in states.items():
        kind, name = key.split(" ", 1)
        found.setdefault(name, {})[kind] = tensor
    return found


def _read(state: dict[str, Any], folder: Path, strict: StrictHandling) -> dict[str, Any]:
    try:
        loaded = dist_checkpointing.load(state, str(folder), strict=strict)
    except CheckpointingException as error:
        raise CheckpointError(f"{folder} does not hold what this run needs: {error}") from error
    assert isinstance(loaded, dict)
    return loaded


def _copy_into(loaded: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        put_in_place(tensor, loaded[name])
