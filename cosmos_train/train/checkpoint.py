"""Checkpoints: one folder each, complete or absent, readable by any layout (megatron-core's dist_checkpointing).

    RUN/checkpoints/step-00000200/
        *.distcp, .metadata, common.pt, metadata.json     megatron-core's: model, optimizer, moving average
        run.yaml                                          the run as it was configured
        complete.json                                     written last: step, samples consumed, digests, W&B id, version

It is written as step-00000200.partial and renamed; a folder without complete.json is never read. There is no generator
state in it: what is random in a run is a function of the seed and the sample's index.

Where a run starts, in this order:
  1. its own newest complete checkpoint
  2. checkpoint.resume_from   another run's checkpoint: weights, optimizer, step
  3. checkpoint.init_from     another run's weights, step 0
  4. scratch
"""

import itertools
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import partition_dim, whole_shape
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.ema import Ema

log = logging.getLogger(__name__)
MARKER = "complete.json"
FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not one that this run can start from. Exit code 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What complete.json says: how far the run is, and what it must not be continued without."""

    step: int
    samples_consumed: int
    seed: int
    data_digest: str
    """Digest of what the sample plan is over; another one is refused."""
    layout: str
    """Layout that wrote it, for the log; any layout reads it."""
    wandb_id: str | None = None
    code_version: str = ""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Source:
    """Where the run starts from."""

    folder: Path | None
    weights_only: bool
    reason: str


def choose_source(run_dir: Path, config: CheckpointConfig) -> Source:
    """The numbered list above. Raises CheckpointError where a named checkpoint is not a complete one."""
    own = newest_checkpoint(run_dir)
    if own is not None:
        return Source(own, weights_only=False, reason="this run's newest checkpoint")
    if config.resume_from is not None:
        return Source(resolve(Path(config.resume_from)), weights_only=False, reason="checkpoint.resume_from")
    if config.init_from is not None:
        return Source(resolve(Path(config.init_from)), weights_only=True, reason="checkpoint.init_from (weights only)")
    return Source(None, weights_only=False, reason="scratch: the run has no checkpoint and names none")


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    complete = [folder for folder in (run_dir / "checkpoints").glob("step-*") if (folder / MARKER).is_file()]
    return max(complete, key=lambda folder: folder.name, default=None)


def resolve(path: Path) -> Path:
    """A checkpoint folder, given itself or its run's folder. Raises CheckpointError where there is none."""
    if (path / MARKER).is_file():
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise CheckpointError(
            f"{path} is neither a complete checkpoint (it has no {MARKER}) nor a run folder with one in checkpoints/"
        )
    return newest


def read_progress(folder: Path) -> Progress:
    """complete.json of a checkpoint. Raises CheckpointError where a newer version of the code wrote it."""
    fields = json.loads((folder / MARKER).read_text())
    if fields.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {fields['format']} and this code reads up to {FORMAT}; "
            "use a newer cosmos-train"
        )
    return Progress(**fields)


def save(run_dir: Path, engine: Engine, ema: Ema | None, progress: Progress, run_yaml: str, *, keep_last: int) -> Path:
    """Write a checkpoint aside, rename it, then remove those that are older than the newest keep_last.

    Raises:
        CheckpointError: on every rank, when any rank could not write. Earlier checkpoints are untouched.
    """
    final = run_dir / "checkpoints" / f"step-{progress.step:08d}"
    partial = final.with_suffix(".partial")
    if engine.mesh.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier(group=engine.mesh.world)
    failure: BaseException | None = None
    try:
        # One writer process a rank (megatron-core forks it): more only help where a rank has several disks.
        strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
        dist_checkpointing.save(_state(engine, ema, is_loading=False), str(partial), sharded_strategy=strategy)
        if engine.mesh.is_main:
            (partial / "run.yaml").write_text(run_yaml)
            (partial / MARKER).write_text(json.dumps(asdict(progress), indent=1))
            partial.rename(final)
    except (OSError, RuntimeError, CheckpointingException, CheckpointException) as error:
        failure = error
    _agree_on_failure(failure, engine.mesh, partial, progress.step)
    if engine.mesh.is_main:
        complete = sorted(folder for folder in final.parent.glob("step-*") if (folder / MARKER).is_file())
        for old in complete[:-keep_last]:
            shutil.rmtree(old)
    return final


def load(folder: Path, engine: Engine, ema: Ema | None) -> None:
    """Read weights, optimizer and moving average into this layout.

    Raises:
        CheckpointError: the checkpoint is of another architecture; the message names the first differing tensors.
    """
    check_architecture(folder, engine.pieces, engine.mesh)
    state = _read(_state(engine, ema, is_loading=True), folder, StrictHandling.RAISE_ALL)
    _copy_into(state["model"], _tensors(engine.pieces))
    if ema is not None:
        _copy_into(state["ema"], ema.average)
    optimizer_state.distribute(engine.optimizer, engine.pieces, _by_parameter(state["optimizer"]))
    optimizer_state.set_adam_step(engine.optimizer, state["adam_step"])


def load_weights(folder: Path, pieces: Sequence[nn.Module], mesh: Mesh, *, averaged: bool = False) -> None:
    """Read the weights alone; their moving average instead, where `averaged`."""
    check_architecture(folder, pieces, mesh)
    wanted = _tensors(pieces)
    params = {name for piece in pieces for name, _ in piece.named_parameters()}  # buffers have no average
    sharded = {
        name: _sharded(
            f"{'ema' if averaged and name in params else 'model'}.{name}",
            torch.empty_like(tensor, dtype=torch.float32 if averaged and name in params else tensor.dtype),
            tensor,
            mesh,
            copy=mesh.replicas.rank(),
        )
        for name, tensor in wanted.items()
    }
    # The checkpoint's optimizer is left aside, so keys that are not asked for are no error here.
    _copy_into(_read({"model": sharded}, folder, StrictHandling.RAISE_UNEXPECTED)["model"], wanted)


def has_average(folder: Path) -> bool:
    """Whether the checkpoint has a moving average of the weights."""
    return any(key.startswith("ema.") for key in dist_checkpointing.load_tensors_metadata(str(folder)))


def check_architecture(folder: Path, pieces: Sequence[nn.Module], mesh: Mesh) -> None:
    """Compare names and whole shapes of the model's tensors with the checkpoint's, over all pipeline stages."""
    mine: dict[str, tuple[int, ...]] = {name: whole_shape(t, mesh) for name, t in _tensors(pieces).items()}
    stages: list[dict[str, tuple[int, ...]]] = [{} for _ in range(mesh.pp.size())]
    dist.all_gather_object(stages, mine, group=mesh.pp)
    wanted = {name: shape for stage in stages for name, shape in stage.items()}
    stored = {
        key.removeprefix("model."): tuple(sharded.global_shape)
        for key, sharded in dist_checkpointing.load_tensors_metadata(str(folder)).items()
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
        "model": {name: _sharded(f"model.{name}", t, t, mesh, copy=copy_rank) for name, t in tensors.items()}
    }
    if ema is not None:
        state["ema"] = {
            name: _sharded(f"ema.{name}", average, tensors[name], mesh, copy=copy_rank)
            for name, average in ema.average.items()
        }
    if is_loading:
        optimizer = optimizer_state.empty(engine.pieces)
    else:
        optimizer = optimizer_state.collect(engine.optimizer, engine.pieces, mesh)
        state["adam_step"] = optimizer_state.adam_step(engine.optimizer)
    # What is collected lies on one rank; what is read is read by all that have the parameter.
    copy = copy_rank if is_loading else 0
    state["optimizer"] = {
        f"{kind}.{name}": _sharded(f"optimizer.{kind}.{name}", tensor, tensors[name], mesh, copy=copy)
        for name, kinds in optimizer.items()
        for kind, tensor in kinds.items()
    }
    return state


def _by_parameter(states: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in states.items():
        kind, name = key.split(".", 1)
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
