"""Whole runs of the tiny world model through the loop, on every rank of a pool."""

import contextlib
import dataclasses
import hashlib
import io
import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import IOBase
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_world
from torch.utils._pytree import tree_leaves

from cosmos_launch.jobs.failure import report_failure
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.parallel import init, optimizer_state
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import from_main
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.checkpoint import read as checkpoint_read
from cosmos_train.train.checkpoint.folder import newest_checkpoint, resolve
from cosmos_train.train.checkpoint.load import load_run, load_weights
from cosmos_train.train.checkpoint.start import StartingPoint, choose_start
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.ema import Ema, profiles
from cosmos_train.train.loop import DONE, train
from cosmos_train.train.telling.metric_window import peak_memory


def train_stirred(run: WorldDiTRun) -> None:
    """Train in this process, from weights in which nothing is zero: else text and conditions have no effect yet."""
    mesh = init.start(run.parallel, seed=run.seed)
    Path(run.run_dir).mkdir(parents=True)
    task = WorldDiTTask(run, mesh)
    tiny_world.stir_zeros(task, mesh)
    assert train(run, task, mesh, code_version="test") == DONE
    init.stop()


def run_loop(
    cache: Path, run_dir: Path, parallel: ParallelConfig, settings: dict[str, Any], model: dict[str, Any] | None = None
) -> int:
    """Train as `cosmos-train train` does. `settings` overrides the loop; `checkpoint`, `optim`, `run` in it theirs."""
    settings = dict(settings)
    checkpoint_settings, optim = settings.pop("checkpoint", {"every_steps": 2}), settings.pop("optim", {})
    sections = settings.pop("run", {})
    run = tiny_world.make_run(cache, run_dir, parallel, **settings)
    run = dataclasses.replace(
        run,
        checkpoint=CheckpointConfig(**checkpoint_settings),
        optim=dataclasses.replace(run.optim, **optim),
        model=dataclasses.replace(run.model, **(model or {})),
        **sections,
    )
    mesh = init.start(run.parallel, seed=run.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(run, WorldDiTTask(run, mesh), mesh, code_version="test")


def updates_that_rank_1_counted(cache: Path, run_dir: Path, parallel: ParallelConfig) -> int:
    """What every rank takes for the number of updates where rank 0 has counted none."""
    _, engine, mesh = tiny_world.start(tiny_world.make_run(cache, run_dir, parallel))
    optimizer_state.set_adam_step(engine.optimizer, 5 * mesh.world.rank())
    return optimizer_state.adam_step(engine.optimizer, mesh)


SLOW_SEC = 1.0
"""That a slow rank sleeps in each step."""


def run_with_a_slow_rank(phase: str, cache: Path, run_dir: Path, parallel: ParallelConfig) -> int:
    """Train on hosts n0, n1, ...; rank 1 sleeps in the forward pass, or before it gets its batches."""
    run = tiny_world.make_run(cache, run_dir, parallel, num_steps=2)
    mesh = init.start(run.parallel, seed=run.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    task = WorldDiTTask(run, mesh)
    if mesh.world.rank() == 1:
        name = "forward_loss" if phase == "forward" else "batches"
        original = getattr(task, name)

        def slow_forward(*arguments: Any) -> Any:
            time.sleep(SLOW_SEC / 2)  # of each of two micro-batches
            return original(*arguments)

        def slow_batches(micro_batches: Any) -> Any:
            for batch in original(micro_batches):
                time.sleep(SLOW_SEC / 2)
                yield batch

        setattr(task, name, slow_forward if phase == "forward" else slow_batches)
    host = f"n{mesh.world.rank()}"
    return train(run, task, mesh, code_version="test", host=host)


def run_with_other_data_on_rank_1(cache: Path, run_dir: Path) -> int:
    """Train where rank 1 sees data of another digest."""
    run = tiny_world.make_run(cache, run_dir, ParallelConfig(), num_steps=2)
    mesh = init.start(run.parallel, seed=run.seed)
    task = WorldDiTTask(run, mesh)
    if mesh.world.rank() == 1:
        task.data_digest = "f" * 64
    return train(run, task, mesh, code_version="test")


def own_and_peak_memory() -> tuple[float, dict[str, float]]:
    """GiB that this rank has held at once, and what all are told; rank 1 has held 256 MiB more."""
    mesh = init.start(ParallelConfig(), seed=0)
    if mesh.world.rank() == 1:
        _ = bytearray(b"1") * 2**28
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, peak_memory(mesh)


def chosen_start(run_dir: Path, config: CheckpointConfig) -> StartingPoint:
    """Where a run would start from, on this rank of all."""
    return choose_start(run_dir, config, init.start(ParallelConfig(), seed=0))


def read_by_main(path: Path) -> str:
    """The text of a file that rank 0 reads for all."""
    return from_main(init.start(ParallelConfig(), seed=0), path.read_text)


def seen_from_own_folder(folders: Sequence[Path], run_dir: str, config: CheckpointConfig) -> StartingPoint:
    """The same, of paths that are relative to another folder on each rank, as if each had another file system."""
    mesh = init.start(ParallelConfig(), seed=0)
    with contextlib.chdir(folders[mesh.world.rank()]):
        return choose_start(Path(run_dir), config, mesh)


def bytes_read(cache: Path, run_dir: Path, parallel: ParallelConfig) -> tuple[int, int]:
    """(bytes that this rank reads of the newest checkpoint, bytes of what it keeps: weights, and states of its own)."""
    run = tiny_world.make_run(cache, run_dir, parallel)
    _, engine, _ = tiny_world.start(run)
    ema, found = Ema(engine, profiles(run.optim)), 0
    original = checkpoint_read._fill

    def counting(left: memoryview, file: IOBase) -> None:
        nonlocal found
        found += left.nbytes
        original(left, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_read, "_fill", counting)
        load_run(resolve(run_dir), engine, ema)
    parts = (*optimizer_state.states(engine.optimizer, engine.pieces).values(), *ema.parts.values())
    own = 0
    for _, kinds in parts:
        own += sum(tensor.nbytes for tensor in kinds.values())
    for piece in engine.pieces:
        own += sum(tensor.nbytes for tensor in piece.state_dict().values() if tensor is not None)
    return found, own


def noting_samples(
    cache: Path, run_dir: Path, parallel: ParallelConfig, settings: dict[str, Any]
) -> tuple[int, dict[int, str]]:
    """run_loop's exit code, and sample -> digest of all that this rank was given of it: latents, noise, conditions."""
    original, seen = WorldDiTTask.batches, dict[int, str]()

    def noting(self: WorldDiTTask, micro_batches: Iterable[Sequence[int]]) -> Iterator[Any]:
        asked: list[int] = []

        def asking() -> Iterator[Sequence[int]]:
            for indices in micro_batches:
                asked.extend(indices)
                yield indices

        for batch in original(self, asking()):
            found = [leaf for leaf in tree_leaves(dataclasses.asdict(batch)) if isinstance(leaf, torch.Tensor)]
            content = b"".join(tensor.contiguous().numpy().tobytes() for tensor in found)
            seen[asked[len(seen)]] = hashlib.sha256(content).hexdigest()
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorldDiTTask, "batches", noting)
        return run_loop(cache, run_dir, parallel, settings), seen


def failure_of(function: Callable, *arguments: Any) -> tuple[str, str]:
    """(class, message) of what the function raises; empty where it does not."""
    try:
        function(*arguments)
    except Exception as error:  # the test looks at which one it is
        return type(error).__name__, str(error)
    return "", ""


def told_failure_of(function: Callable, *arguments: Any) -> tuple[int, str]:
    """(exit code, what a person is told) of a function that raises; (0, "") where it does not."""
    told = io.StringIO()
    try:
        function(*arguments)
    except Exception as error:  # as the command does
        with contextlib.redirect_stderr(told):
            return report_failure(error), told.getvalue()
    return 0, ""


def saved_average(cache: Path, run_dir: Path, parallel: ParallelConfig) -> dict[str, torch.Tensor]:
    """Whole moving averages of the run's newest checkpoint, read into this layout."""
    run = tiny_world.make_run(cache, run_dir, parallel)
    mesh = init.start(parallel, seed=run.seed)
    task = WorldDiTTask(run, mesh)
    folder = newest_checkpoint(run_dir)
    assert folder is not None
    load_weights(folder, task.pieces, mesh, averaged=True)
    return tiny_world.whole_parameters(task, mesh)


def steps(run_dir: Path) -> dict[int, dict[str, float]]:
    """Step -> what metrics.jsonl says of it, without times."""
    timing = ("_sec", "_per_gpu", "_share", "_gib", "time")
    return {
        record["step"]: {name: value for name, value in record.items() if not name.endswith(timing)}
        for record in records(run_dir)
    }


def records(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are steps."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if "loss" in record]


def losses(run_dir: Path) -> dict[int, float]:
    """Step -> loss, of metrics.jsonl; a step that was run twice has its last value."""
    return {record["step"]: record["loss"] for record in records(run_dir)}


def events(run_dir: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says besides steps."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "event" in record]
