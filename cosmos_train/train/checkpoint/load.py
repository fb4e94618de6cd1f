"""Loading: a checkpoint of any layout into the tensors of this one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_tok.number_formats import require_finite
from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.mesh import Mesh, over_stages
from cosmos_train.parallel.shard import plain, put_in_place, whole_shape
from cosmos_train.train.checkpoint.folder import CheckpointError
from cosmos_train.train.checkpoint.judge import ADAM_STEP, COMMON
from cosmos_train.train.checkpoint.read import reading_in_place
from cosmos_train.train.checkpoint.state import describe_updated, describe_whole, tensors_of
from cosmos_train.train.ema import PLAIN, Ema
from cosmos_train.train.finite import name_not_finite

WEIGHTS = ("model", PLAIN)
"""What files of checkpoints say of the weights alone: they, and their plain moving average."""


def load_run(folder: Path, engine: Engine, ema: Ema | None) -> None:
    """Read weights, optimizer and moving averages into this layout.

    Raises:
        CheckpointError: the checkpoint is of another architecture; the message names the first differing tensors. Or
            its weights are not finite.
    """
    check_architecture(folder, engine.pieces, engine.mesh)
    weights, wanted = tensors_of(engine.pieces), describe_updated(engine, ema)
    state: dict[str, Any] = {
        "model": {name: describe_whole(f"model.{name}", plain(t), t, engine.mesh) for name, t in weights.items()},
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
        sharded[name] = describe_whole(key, data, tensor, mesh)
    # The checkpoint's optimizer is left aside, so keys that are not asked for are no error here.
    loaded = _read({"model": sharded}, folder, StrictHandling.RAISE_UNEXPECTED)["model"]
    _require_finite(loaded, folder, mesh)
    _copy_into(loaded, wanted)


def tensor_names(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and number format of every tensor in a checkpoint's folder, by its name there.

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
    """Read whole tensors of a checkpoint's folder, by their names there.

    Raises:
        NotFiniteError: one of them holds NaN or infinity.
    """
    known = tensor_names(folder)
    empty = {name: torch.empty(known[name][0], dtype=known[name][1]) for name in names}
    wanted = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in empty.items()}
    found = _read({"tensors": wanted}, folder, StrictHandling.RAISE_UNEXPECTED)["tensors"]
    for name, tensor in found.items():
        require_finite(name, tensor, str(folder))
    return found


def has_average(folder: Path) -> bool:
    """Whether the checkpoint has a plain moving average of the weights."""
    return any(name.startswith(f"{PLAIN}.") for name in tensor_names(folder))


def check_architecture(folder: Path, pieces: Sequence[nn.Module], mesh: Mesh) -> None:
    """Compare names and whole shapes of the model's tensors with the checkpoint's, over all pipeline stages."""
    wanted = over_stages({name: whole_shape(t, mesh) for name, t in tensors_of(pieces).items()}, mesh)
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
