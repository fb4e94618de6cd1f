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
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import partition_dim, plain, whole_shape
from cosmos_train.train.checkpoint_folder import FORMAT as FORMAT
from cosmos_train.train.checkpoint_folder import (
    MARKER,
    CheckpointError,
    Progress,
    damage_of,
    digests_of,
    list_checkpoints,
    prune,
    remove_partial,
    resolve,
    set_aside,
    write_digests,
)
from cosmos_train.train.checkpoint_folder import newest_checkpoint as newest_checkpoint
from cosmos_train.train.checkpoint_folder import read_progress as read_progress
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.ema import PLAIN, Ema
from cosmos_train.train.signals import deaf_children

log = logging.getLogger(__name__)
SNAPSHOTS = "ema"
"""Folder of snapshots of the power-law averages inside the run's folder."""


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
    own = list_checkpoints(run_dir)
    for folder in reversed(own):
        damage = _damage(folder, config, mesh)
        if not damage:
            is_newest = folder == own[-1]
            reason = "this run's newest checkpoint" + ("" if is_newest else " that is whole: a newer one is damaged")
            return Source(folder, weights_only=False, reason=reason)
        if mesh.is_main:
            set_aside(folder)
            log.warning("%s is damaged (%s) and set aside; going back to the one before it", folder, damage)
    if own:
        raise CheckpointError(
            f"all {len(own)} checkpoints of {run_dir} are damaged and were set aside; restore one of them, or start "
            "afresh with another run_dir"
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
    return "; ".join(phrase for found in _of_all(damage_of, folder, mesh) for phrase in found)


def _of_all(read: Callable[..., Any], folder: Path, mesh: Mesh) -> list[Any]:
    """read(folder) of every rank, each for its part of the files."""
    found: list[Any] = [None] * mesh.world.size()
    dist.barrier(group=mesh.world)  # what others wrote is there
    mine = read(folder, part=mesh.world.rank(), num_parts=mesh.world.size())
    dist.all_gather_object(found, mine, group=mesh.world)
    return found


def save(
    run_dir: Path, engine: Engine, ema: Ema | None, progress: Progress, run_yaml: str, config: CheckpointConfig
) -> Path:
    """Write a checkpoint aside, rename it, then remove those that need not be kept.

    Raises:
        CheckpointError: on every rank, when any rank could not write. Earlier checkpoints are untouched.
    """
    final = run_dir / "checkpoints" / f"step-{progress.step:08d}"
    _write(final, lambda: _state(engine, ema, is_loading=False), engine.mesh, progress, run_yaml)
    if engine.mesh.is_main:
        prune(run_dir, keep_last=config.keep_last, keep_every_steps=config.keep_every_steps)
    return final


def save_snapshot(run_dir: Path, engine: Engine, ema: Ema, progress: Progress, run_yaml: str) -> Path:
    """Write the power-law averages alone to RUN/ema/step-..., where all stay: `cosmos-train ema` reads them.

    Raises:
        CheckpointError: as save does.
    """
    final = run_dir / SNAPSHOTS / f"step-{progress.step:08d}"
    keys = [key for key in ema.keys if key != PLAIN]
    _write(final, lambda: _ema_state(engine, ema, keys, is_loading=False), engine.mesh, progress, run_yaml)
    return final


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], mesh: Mesh, progress: Progress, run_yaml: str) -> None:
    """Write whole tensors by their names in a checkpoint, from one process, as a folder that checkpoints are read from.

    Raises:
        CheckpointError: as save does.
    """
    state = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in tensors.items()}
    _write(folder, lambda: state, mesh, progress, run_yaml)


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


def _write(final: Path, state: Callable[[], dict[str, Any]], mesh: Mesh, progress: Progress, run_yaml: str) -> None:
    """Write a folder aside and rename it. Raises CheckpointError on every rank, when any rank could not write."""
    partial = final.with_suffix(".partial")
    if mesh.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier(group=mesh.world)
    failure: BaseException | None = None
    try:
        with deaf_children():  # megatron-core keeps a process that passes on what its writers say
            filesystem_async._get_write_results_queue()
        # One writer process a rank (megatron-core forks it): more only help where a rank has several disks.
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        dist_checkpointing.save(state(), str(partial), sharded_strategy=strategy)
        if mesh.is_main:
            (partial / "run.yaml").write_text(run_yaml)
    except (OSError, RuntimeError, CheckpointingException, CheckpointException) as error:
        failure = error
    _agree_on_failure(failure, mesh, partial, progress.step)
    digests = _of_all(digests_of, partial, mesh)
    try:
        if mesh.is_main:
            write_digests(partial, {name: digest for part in digests for name, digest in part.items()})
            (partial / MARKER).write_text(json.dumps(asdict(progress), indent=1))
            shutil.rmtree(final, ignore_errors=True)  # a snapshot, where the run went on from a step before it
            partial.rename(final)
    except OSError as error:
        failure = error
    _agree_on_failure(failure, mesh, partial, progress.step)


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
    copy_rank = mesh.replicas.rank()
    state: dict[str, Any] = {
        "model": {name: _sharded(f"model.{name}", plain(t), t, mesh, copy=copy_rank) for name, t in tensors.items()}
    }
    if ema is not None:
        state["ema"] = _ema_state(engine, ema, ema.keys, is_loading=is_loading)
    if is_loading:
        optimizer = optimizer_state.empty(engine.pieces)
    else:
        optimizer = optimizer_state.collect(engine.optimizer, engine.pieces, mesh)
        state["adam_step"] = optimizer_state.adam_step(engine.optimizer)
    state["optimizer"] = _divided(optimizer, engine, prefix="optimizer.", is_loading=is_loading)
    return state


def _ema_state(engine: Engine, ema: Ema, keys: Sequence[str], *, is_loading: bool) -> dict[str, ShardedTensor]:
    averages = optimizer_state.empty(engine.pieces, keys) if is_loading else ema.whole(keys)
    return _divided(averages, engine, prefix="", is_loading=is_loading)


def _divided(
    states: Mapping[str, Mapping[str, Tensor]], engine: Engine, *, prefix: str, is_loading: bool
) -> dict[str, ShardedTensor]:
    """{kind, name: that kind of state, divided as the parameter is}, stored as prefix + kind.name."""
    mesh, tensors = engine.mesh, _tensors(engine.pieces)
    # What was put together lies on one rank; what is read is read by all that have the parameter.
    copy = mesh.replicas.rank() if is_loading else 0
    return {
        f"{kind} {name}": _sharded(f"{prefix}{kind}.{name}", tensor, tensors[name], mesh, copy=copy)
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


@torch.no_grad()
def _copy_into(loaded: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(loaded[name])


def _agree_on_failure(failure: BaseException | None, mesh: Mesh, partial: Path, step: int) -> None:
    """Remove what is half-written and raise on every rank if any failed, so that no rank goes on alone."""
    reasons: list[str | None] = [None] * mesh.world.size()
    dist.all_gather_object(reasons, None if failure is None else f"{type(failure).__name__}: {failure}", mesh.world)
    found = [f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None]
    if not found:
        return
    free_mib = shutil.disk_usage(partial.parent).free / 2**20
    dist.barrier(group=mesh.world)  # all have looked at the disk before it is tidied
    if mesh.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    log.warning("%s", found[0])
    reason = "the disk is full" if free_mib < 1 else found[0].splitlines()[-1]
    raise CheckpointError(
        f"could not write the checkpoint of step {step} to {partial.parent}: {reason} ({free_mib:.1f} MiB are free); "
        "earlier checkpoints are untouched; make room and run the same command again"
    ) from failure
