"""What ranks do in the tests of saving and reading: with tensors alone, without a model."""

import os
import signal
from io import IOBase
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.flat_range import Box
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.train.checkpoint import read as checkpoint_read
from cosmos_train.train.checkpoint.folder import Progress
from cosmos_train.train.checkpoint.read import reading_in_place
from cosmos_train.train.checkpoint.save import save_run
from cosmos_train.train.checkpoint.saver import Saver


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
        What was read and whether all is where it was asked to be; or the error.
    """
    mesh = init.start(ParallelConfig(), seed=0)
    final = folder / "saved"
    Saver(mesh).save(final, lambda: sharded(tensors), progress(1), "")
    [file] = final.glob("*.distcp")
    os.truncate(file, round(file.stat().st_size * kept))
    try:
        with reading_in_place():
            loaded = dist_checkpointing.load({"tensors": sharded(targets)}, str(final))
    except CheckpointException as error:
        return {"raised": str(error)}
    assert isinstance(loaded, dict)
    found = loaded["tensors"]
    return {"found": found, "in place": all(found[name].data_ptr() == t.data_ptr() for name, t in targets.items())}


def read_boxes(folder: Path, tensor: Tensor, written: list[Box], wanted: list[Box]) -> list[tuple[Tensor, int]]:
    """Save a tensor in boxes; each wanted one as it is read, and the bytes that were read for it."""
    mesh, found = init.start(ParallelConfig(), seed=0), []
    state = {str(number): box_of("t", tensor, box) for number, box in enumerate(written)}
    Saver(mesh).save(folder / "saved", lambda: state, progress(1), "")
    original = checkpoint_read._fill
    for box in wanted:
        lengths: list[int] = []

        def counting(left: memoryview, file: IOBase, lengths: list[int] = lengths) -> None:
            lengths.append(left.nbytes)
            original(left, file)

        with pytest.MonkeyPatch.context() as patch, reading_in_place():
            patch.setattr(checkpoint_read, "_fill", counting)
            loaded = dist_checkpointing.load({"box": box_of("t", torch.zeros_like(tensor), box)}, str(folder / "saved"))
        assert isinstance(loaded, dict)
        found.append((loaded["box"], sum(lengths)))
    return found


def box_of(name: str, tensor: Tensor, box: Box) -> ShardedTensor:
    """A box of a tensor that is divided in no regular way."""
    data = tensor[tuple(slice(begin, begin + size) for begin, size in zip(*box, strict=True))].contiguous()
    return ShardedTensor(name, data, data.dtype, tuple(data.shape), tuple(tensor.shape), box[0], None)


def save_unlike_sizes(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Save a model with parameters of these shapes, and its optimizer, on data-parallel ranks."""
    mesh = init.start(ParallelConfig(), seed=0)
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()})
    config = transformer_config(ParallelConfig(), dtype=torch.float32, num_layers=1, width=4, num_heads=1)
    adam = AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, clip_grad_norm=1.0)
    engine = Engine([model], config, mesh, adam)
    with Saver(mesh) as saver:
        save_run(saver, folder, engine, None, progress(1), "")
        saver.wait()
