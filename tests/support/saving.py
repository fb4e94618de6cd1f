"""What ranks do in the tests of saving and reading: with tensors alone, without a model."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint_folder import Progress
from cosmos_train.train.checkpoint_read import read_in_place
from cosmos_train.train.checkpoint_save import Saver


def progress(step: int) -> Progress:
    """Of a run of one sample a step."""
    return Progress(step=step, samples_consumed=step, seed=0, data_digest="", layout="")


def sharded(tensors: dict[str, Tensor]) -> dict[str, ShardedTensor]:
    """Whole tensors under their names."""
    return {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in tensors.items()}


def save_twice_a_step(folder: Path, parallel: ParallelConfig) -> list[tuple[int, list[str]]]:
    """Two folders after each of two steps, with a writer that does nothing until both of the first step are begun.

    Returns:
        (how many are begun, names of those that are complete) after each beginning, and at the end.
    """
    mesh, seen = init.start(parallel, seed=0), []
    with Saver(mesh, asynchronous=True) as saver:
        assert saver.writer is not None
        saver.writer.process.send_signal(signal.SIGSTOP)
        value = torch.zeros(1000)

        def state() -> dict[str, ShardedTensor]:
            return sharded({"value": value}) if mesh.is_main else {}

        for step, name in ((1, "a"), (1, "b"), (2, "a"), (2, "b")):
            value += 1
            if (step, name) == (2, "a"):
                saver.writer.process.send_signal(signal.SIGCONT)
            final = folder / f"{name}-{step}"
            saver.save(final, state, progress(step), "")
            seen.append((len(saver.pending), _complete(folder)))
        saver.wait()
    return [*seen, (len(saver.pending), _complete(folder))]


def _complete(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/complete.json"))


def read(folder: Path, names: list[str]) -> dict[str, Tensor]:
    """What a checkpoint's folder holds under these names, each 1000 numbers."""
    targets = {name: torch.zeros(1000) for name in names}
    state = {"tensors": sharded(targets)}
    init.start(ParallelConfig(), seed=0)
    found = dist_checkpointing.load(state, str(folder))
    assert isinstance(found, dict)
    return found["tensors"]


def read_into(folder: Path, tensors: dict[str, Tensor], targets: dict[str, Tensor], kept: float) -> dict[str, Any]:
    """Save tensors, keep that share of the file, and read it into other tensors.

    Returns:
        What was read, names that upstream was left to read, whether all is where it was asked to be; or the error.
    """
    mesh, left = init.start(ParallelConfig(), seed=0), []
    final = folder / "saved"
    Saver(mesh).save(final, lambda: sharded(tensors), progress(1), "")
    [file] = final.glob("*.distcp")
    os.truncate(file, round(file.stat().st_size * kept))
    original = FileSystemReader.read_data

    def noting(self: FileSystemReader, plan: Any, planner: Any) -> Any:
        left.extend(item.storage_index.fqn for item in plan.items)
        return original(self, plan, planner)

    FileSystemReader.read_data = noting
    read_in_place()
    try:
        loaded = dist_checkpointing.load({"tensors": sharded(targets)}, str(final))
    except CheckpointException as error:
        return {"raised": str(error)}
    finally:
        FileSystemReader.read_data = original
    assert isinstance(loaded, dict)
    found = loaded["tensors"]
    in_place = all(found[name].data_ptr() == target.data_ptr() for name, target in targets.items())
    return {"found": found, "left": sorted(left), "in place": in_place}
