"""Checkpoints: one folder each, complete or absent, readable by any layout (megatron-core's dist_checkpointing).

    RUN/checkpoints/step-00000200/
        *.distcp, .metadata, common.pt, metadata.json     megatron-core's: model, optimizer, moving averages
        run.yaml                                          the run as it was configured
        digests.json                                      SHA-256 of each file, compared before it is read
        complete.json                                     written last: step, samples consumed, digest of the data,
                                                          score, layout, W&B id, code version

It is written as step-00000200.partial and renamed; a folder without complete.json is damaged, and never read. There is
no generator state in it: what is random in a run is a function of the seed and the sample's index.

Where a run starts, in this order:
  1. its own newest complete checkpoint that is whole
  2. checkpoint.resume_from   another run's checkpoint: weights, optimizer, step
  3. checkpoint.init_from     another run's weights, or another project's (Task.warm_start), step 0
  4. scratch
"""

import itertools
import logging
import math
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_tok.number_formats import require_finite
from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.flat_range import boxes, equal_share
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import partition_dim, plain, put_in_place, whole_shape
from cosmos_train.train.checkpoint.folder import (
    CHECKPOINTS,
    MARKER,
    SNAPSHOTS,
    CheckpointError,
    Progress,
    damage_of,
    list_damaged,
    list_named,
    remove_partial,
    resolve,
    set_aside,
    staging_folder,
)
from cosmos_train.train.checkpoint.folder import FORMAT as FORMAT
from cosmos_train.train.checkpoint.folder import find_checkpoint as find_checkpoint
from cosmos_train.train.checkpoint.folder import newest_checkpoint as newest_checkpoint
from cosmos_train.train.checkpoint.folder import read_progress as read_progress
from cosmos_train.train.checkpoint.judge import ADAM_STEP, COMMON
from cosmos_train.train.checkpoint.metadata import files_of
from cosmos_train.train.checkpoint.read import reading_in_place
from cosmos_train.train.checkpoint.saver import Saved as Saved
from cosmos_train.train.checkpoint.saver import Saver as Saver
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.ema import PLAIN, Ema
from cosmos_train.train.finite import name_not_finite

log = logging.getLogger(__name__)
WEIGHTS = ("model", PLAIN)
"""What files of checkpoints say of the weights alone: they, and their plain moving average."""
T = TypeVar("T")
SHOWN = 3
"""An error names so many of what it is about."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the run starts from."""

    folder: Path | None
    weights_only: bool
    reason: str
    damaged: tuple[tuple[Path, str], ...] = ()
    """The run's own newer ones that can not be used, and why."""


def choose_source(run_dir: Path, config: CheckpointConfig, mesh: Mesh) -> Source:
    """The numbered list above, as rank 0 sees it, the same on every rank. Nothing in the run's folder is changed.

    Raises:
        CheckpointError: a named checkpoint is not a complete one, or damaged; or all of the run's own are.
    """
    own, set_aside_before = from_main(mesh, lambda: (list_named(run_dir), list_damaged(run_dir)))
    damaged = []
    for folder in reversed(own):
        damage = damage_on_all(folder, mesh, contents=config.verify)
        if not damage:
            reason = "this run's newest checkpoint" + (" that is whole: a newer one is damaged" if damaged else "")
            return Source(folder, weights_only=False, reason=reason, damaged=tuple(damaged))
        damaged.append((folder, damage))
        if mesh.is_main:
            log.warning("%s is damaged (%s); going back to the one before it", folder, damage)
    if own or set_aside_before:  # to start from scratch here would be a loss that nobody sees
        raise CheckpointError(_no_whole_one(run_dir, damaged, set_aside_before))
    if config.resume_from is not None:
        named = Path(config.resume_from)
        folder = from_main(mesh, lambda: resolve(named))
        require_whole(folder, mesh, contents=config.verify)
        return Source(folder, weights_only=False, reason="checkpoint.resume_from")
    if config.init_from is not None:
        other = Path(config.init_from)
        of_ours = from_main(mesh, lambda: find_checkpoint(other))
        if of_ours is not None:
            require_whole(of_ours, mesh, contents=config.verify, kinds=("model",))
        return Source(of_ours or other, weights_only=True, reason="checkpoint.init_from (weights only)")
    return Source(None, weights_only=False, reason="scratch: the run has no checkpoint and names none")


def _no_whole_one(run_dir: Path, damaged: Sequence[tuple[Path, str]], set_aside_before: Sequence[Path]) -> str:
    """Say what was found in the place of a checkpoint, and what to do."""
    found = [f"{folder.name}: {damage}" for folder, damage in damaged]
    found += [f"{folder.name}: set aside by an earlier start" for folder in set_aside_before]
    return (
        f"all {len(found)} checkpoints of {run_dir} are damaged ({_first(found)}), and a start from scratch would lose "
        "what they hold; restore one from a copy, rename a step-N.damaged to step-N where it was set aside wrongly, or "
        "start afresh with another run_dir"
    )


def tidy(run_dir: Path, config: CheckpointConfig, source: Source, mesh: Mesh) -> None:
    """Set aside what was found damaged, and remove what a crash left half-written, of a start that nothing refuses."""
    if mesh.is_main:
        for folder, damage in source.damaged:
            log.warning("%s is kept as %s", folder, set_aside(folder, damage).name)
        remove_partial(run_dir)
    if config.staging_dir is not None:  # each node's own
        shutil.rmtree(staging_folder(Path(config.staging_dir), run_dir), ignore_errors=True)


def from_main(mesh: Mesh, find: Callable[[], T]) -> T:
    """Return what rank 0 finds, on every rank: over a network file system others may not see the newest folder yet, and
    what takes long is done once. Raises on every rank what it raises there."""
    said: list[Any] = [None, None]
    if mesh.is_main:
        try:
            said[0] = find()
        except Exception as error:
            said[1] = error
    dist.broadcast_object_list(said, src=0, group=mesh.world, device=mesh.device)
    found, error = said
    if error is not None:
        raise error
    return found


def damage_on_all(folder: Path, mesh: Mesh, *, contents: bool, only: Collection[str] | None = None) -> str:
    """What differs from its digests, as damage_of has it, the same on every rank: they share the reading.

    Raises:
        CheckpointError: on every rank, where a rank sees another folder than rank 0, or damage_of raises on one.
    """
    found: list[Any] = [None] * mesh.world.size()
    try:
        mine = damage_of(folder, contents=contents, only=only, part=mesh.world.rank(), num_parts=mesh.world.size())
    except CheckpointError as error:
        mine = error
    dist.all_gather_object(found, (_seal_of(folder), mine), group=mesh.world)
    others = [str(rank) for rank, (seal, _) in enumerate(found) if seal != found[0][0]]
    if others:  # no damage: rank 0 may see what they do not see yet, or have what lies on its own node alone
        raise CheckpointError(
            f"{folder} is not the same on all nodes: rank {', '.join(others[:SHOWN])} sees another {MARKER} than rank "
            "0; put it on a file system that all nodes see, and start again"
        )
    for _, of_rank in found:
        if isinstance(of_rank, CheckpointError):
            raise of_rank
    return _first(dict.fromkeys(phrase for _, of_rank in found for phrase in of_rank))


def _first(phrases: Iterable[str]) -> str:
    """So many of them as an error shows, and how many more there are."""
    shown = list(phrases)
    more = [f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
    return "; ".join([*shown[:SHOWN], *more])


def _seal_of(folder: Path) -> bytes | None:
    """Read what this rank sees of complete.json; None where it sees none."""
    try:
        return (folder / MARKER).read_bytes()
    except OSError:
        return None


def require_whole(folder: Path, mesh: Mesh | None, *, contents: bool, kinds: Sequence[str] | None = None) -> None:
    """Compare a checkpoint that is about to be read with its digests.

    Args:
        mesh: all of its ranks call this, and share the reading; None: this process reads all.
        contents: checkpoint.verify; without it sizes are compared.
        kinds: which tensors are about to be read, such as model; files without any of them are not looked at.

    Raises:
        CheckpointError: it is damaged.
    """
    if mesh is None:
        only = None if kinds is None else files_of(folder, kinds)
        damage = _first(damage_of(folder, contents=contents, only=only))
    else:
        only = None if kinds is None else from_main(mesh, lambda: files_of(folder, kinds))
        damage = damage_on_all(folder, mesh, contents=contents, only=only)
    if damage:
        raise CheckpointError(f"{folder} is damaged ({damage}); restore it, or name another one")


def save(saver: Saver, run_dir: Path, engine: Engine, ema: Ema | None, progress: Progress, run_yaml: str) -> None:
    """Save where the run stands.

    Raises:
        CheckpointError: as Saver.save does.
    """
    final = run_dir / CHECKPOINTS / f"step-{progress.step:08d}"
    updates = optimizer_state.adam_step(engine.optimizer, engine.mesh)
    progress = replace(progress, skipped_steps=progress.step - updates)
    saver.save(final, lambda: _to_save(engine, ema) | {ADAM_STEP: updates}, progress, run_yaml)


def save_snapshot(saver: Saver, run_dir: Path, engine: Engine, ema: Ema, progress: Progress, run_yaml: str) -> None:
    """Save the power-law averages alone in RUN/ema/step-..., where all stay: `cosmos-train ema` reads them.

    Raises:
        CheckpointError: as Saver.save does.
    """
    final = run_dir / SNAPSHOTS / f"step-{progress.step:08d}"
    keys = [key for key in ema.keys if key != PLAIN]
    saver.save(final, lambda: _divided(ema.states(keys), engine, prefix=""), progress, run_yaml)


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], mesh: Mesh, progress: Progress, run_yaml: str) -> None:
    """Write whole tensors by their names in a checkpoint, from one process, as a folder that checkpoints are read from.

    Raises:
        CheckpointError: as Saver.save does.
    """
    state = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in tensors.items()}
    Saver(mesh).save(folder, lambda: state, progress, run_yaml)


def tensor_names(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and number format of every tensor in a checkpoint's folder, by its name there.

    Raises:
        CheckpointError: what says so is damaged.
    """
    try:
        with reading_in_place():
            found = dist_checkpointing.load_tensors_metadata(str(folder))
    except CheckpointError:
        raise
    except Exception as error:  # of values that are not what upstream wrote, whatever it makes of them
        raise _unreadable(folder, error) from error
    return {name: (tuple(t.global_shape), t.dtype) for name, t in found.items() if isinstance(t, ShardedTensor)}


def read_tensors(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint's folder, by their names there. NotFiniteError where one holds NaN or infinity."""
    known = tensor_names(folder)
    empty = {name: torch.empty(known[name][0], dtype=known[name][1]) for name in names}
    wanted = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in empty.items()}
    found = _read({"tensors": wanted}, folder, StrictHandling.RAISE_UNEXPECTED)["tensors"]
    for name, tensor in found.items():
        require_finite(name, tensor, str(folder))
    return found


def load(folder: Path, engine: Engine, ema: Ema | None) -> None:
    """Read weights, optimizer and moving averages into this layout.

    Raises:
        CheckpointError: the checkpoint is of another architecture; the message names the first differing tensors. Or
            its weights are not finite.
    """
    check_architecture(folder, engine.pieces, engine.mesh)
    weights, wanted = tensors_of(engine.pieces), _updated_here(engine, ema)
    state: dict[str, Any] = {
        "model": {name: _whole(f"model.{name}", plain(t), t, engine.mesh) for name, t in weights.items()},
        "updated here": dict(wanted),
    }
    own = {key: sharded.data for key, sharded in wanted.items() if sharded.data is not None}  # read into
    loaded = _read(state, folder, StrictHandling.RAISE_ALL)
    if ADAM_STEP not in loaded:
        raise CheckpointError(f"{folder} holds no optimizer; name it as checkpoint.init_from to start from its weights")
    _require_finite(loaded["model"], folder, engine.mesh)
    _copy_into(loaded["model"], weights)
    _copy_into(loaded["updated here"], own)
    optimizer_state.set_adam_step(engine.optimizer, loaded[ADAM_STEP])


def load_weights(
    folder: Path, pieces: Sequence[nn.Module], mesh: Mesh, *, averaged: bool = False, masters: bool = False
) -> None:
    """Read the weights alone.

    Args:
        averaged: read their moving average instead.
        masters: read the fp32 weights that the optimizer updates instead, where the model's own are of fewer bits.

    Raises:
        CheckpointError: the checkpoint is of another architecture, or its weights are not finite.
    """
    check_architecture(folder, pieces, mesh)
    wanted = tensors_of(pieces)
    kind = f"{PLAIN}." if averaged else f"optimizer.{optimizer_state.MASTER}."
    # Buffers, and parameters that were not trained, have neither.
    others = {name for name in tensor_names(folder) if name.startswith(kind)} if averaged or masters else set()
    sharded = {}
    for name, tensor in wanted.items():
        key = f"{kind}{name}" if f"{kind}{name}" in others else f"model.{name}"
        data = torch.empty_like(plain(tensor), dtype=torch.float32 if key in others else tensor.dtype)
        sharded[name] = _whole(key, data, tensor, mesh)
    # The checkpoint's optimizer is left aside, so keys that are not asked for are no error here.
    loaded = _read({"model": sharded}, folder, StrictHandling.RAISE_UNEXPECTED)["model"]
    _require_finite(loaded, folder, mesh)
    _copy_into(loaded, wanted)


def has_average(folder: Path) -> bool:
    """Whether the checkpoint has a plain moving average of the weights."""
    return any(name.startswith(f"{PLAIN}.") for name in tensor_names(folder))


def check_architecture(folder: Path, pieces: Sequence[nn.Module], mesh: Mesh) -> None:
    """Compare names and whole shapes of the model's tensors with the checkpoint's, over all pipeline stages."""
    mine: dict[str, tuple[int, ...]] = {name: whole_shape(t, mesh) for name, t in tensors_of(pieces).items()}
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


def tensors_of(pieces: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; parameters themselves, for what they are marked with."""
    kept = itertools.chain.from_iterable(piece.state_dict(keep_vars=True).items() for piece in pieces)
    return {name: tensor for name, tensor in kept if isinstance(tensor, Tensor)}


def _to_save(engine: Engine, ema: Ema | None) -> dict[str, Any]:
    """The tensors that this rank writes."""
    # All ranks of `replicas` have the same weights: each writes an equal part of their bytes.
    weights, replicas = tensors_of(engine.pieces), engine.mesh.replicas
    plain_ones = {f"model.{name}": plain(t).detach().flatten() for name, t in weights.items()}
    sizes = [(flat.numel(), flat.element_size()) for flat in plain_ones.values()]
    shares = equal_share(sizes, replicas.rank(), replicas.size())
    state: dict[str, Any] = {
        f"{key} {number}": box
        for (key, flat), like, where in zip(plain_ones.items(), weights.values(), shares, strict=True)
        for number, box in enumerate(_boxes(key, flat[where], where, like, engine.mesh))
    }
    return state | _updated_here(engine, ema)


def _updated_here(engine: Engine, ema: Ema | None) -> dict[str, ShardedTensor]:
    """The parts of the optimizer's state and of all averages that this rank updates: no other rank has them."""
    found = _divided(optimizer_state.states(engine.optimizer, engine.pieces), engine, prefix="optimizer.")
    return found if ema is None else found | _divided(ema.states(ema.keys), engine, prefix="")


def _divided(parts: optimizer_state.Parts, engine: Engine, *, prefix: str) -> dict[str, ShardedTensor]:
    """Slices of each parameter's states, stored as parts of one tensor for each: prefix + kind.name."""
    tensors = tensors_of(engine.pieces)
    return {
        f"{prefix}{kind}.{name} {number}": box
        for name, (where, kinds) in parts.items()
        for kind, flat in kinds.items()
        for number, box in enumerate(
            _boxes(f"{prefix}{kind}.{name}", flat.flatten(), where, tensors[name], engine.mesh)
        )
    }


def _boxes(key: str, flat: Tensor, where: slice, like: Tensor, mesh: Mesh) -> Iterator[ShardedTensor]:
    """Describe a slice of a tensor, which is divided as parameter `like` is, as boxes of the undivided one."""
    shape, dim, begin = tuple(like.shape), partition_dim(like), 0
    for inner, sizes in boxes(shape, where):
        data = flat[begin : begin + math.prod(sizes)].view(sizes)
        begin += data.numel()
        offsets = [offset + (mesh.tp.rank() * shape[d] if d == dim else 0) for d, offset in enumerate(inner)]
        whole = whole_shape(like, mesh)
        yield ShardedTensor(key, data, data.dtype, sizes, whole, tuple(offsets), None, (*_copy_of(like, mesh), 0))


def _whole(key: str, data: Tensor, like: Tensor, mesh: Mesh) -> ShardedTensor:
    """Describe all that this rank has of a tensor which is divided as parameter `like` is."""
    dim = partition_dim(like)
    offsets = () if dim is None else ((dim, mesh.tp.rank(), mesh.tp.size()),)
    copy = (*_copy_of(like, mesh), mesh.replicas.rank())
    return ShardedTensor.from_rank_offsets(key, data, *offsets, replica_id=copy)


def _copy_of(like: Tensor, mesh: Mesh) -> tuple[int, int]:
    """Which copy of what several pipeline stages, or tensor-parallel ranks, have alike; (0, 0) is the one to write."""
    stage = mesh.pp.rank() if getattr(like, "shared_over_stages", False) else 0
    return stage, mesh.tp.rank() if partition_dim(like) is None else 0


def _read(state: dict[str, Any], folder: Path, strict: StrictHandling) -> dict[str, Any]:
    try:
        common = dist_checkpointing.load_common_state_dict(str(folder))
    except Exception as error:  # torch, pickle and JSON have errors of many kinds for bytes that are not theirs
        raise _unreadable(folder, error) from error
    if not isinstance(common, dict):
        raise CheckpointError(f"{folder}/{COMMON} is damaged; restore it, or name another checkpoint")
    try:
        with reading_in_place():
            loaded = dist_checkpointing.load(state, str(folder), strict=strict)
    except CheckpointingException as error:
        raise CheckpointError(f"{folder} does not hold what this run needs: {error}") from error
    except CheckpointException as error:  # of any rank
        [cause, *_] = (each[0] for each in error.failures.values())
        raise _unreadable(folder, cause) from error
    assert isinstance(loaded, dict)
    return loaded


def _require_finite(weights: Mapping[str, Tensor], folder: Path, mesh: Mesh) -> None:
    """CheckpointError, on every rank, where a checkpoint's weights are NaN or infinite."""
    if said := name_not_finite(weights, mesh):
        raise CheckpointError(
            f"{folder}: {said}, so its run had failed; take the checkpoint before it, from which that run goes on too "
            "when this folder is removed"
        )


def _unreadable(folder: Path, cause: BaseException) -> CheckpointError:
    reason = str(cause).partition("\n")[0] or type(cause).__name__
    return CheckpointError(f"{folder} can not be read: {reason}; restore it, or name another one")


def _copy_into(loaded: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        put_in_place(tensor, loaded[name])
