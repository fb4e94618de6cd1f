"""Weights with NaN in them are named on every rank, whichever has them, and not read from checkpoints."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_data.sample_plan.order import SAMPLE_ORDER
from cosmos_train.config.load import to_yaml
from cosmos_train.interop.source import open_source
from cosmos_train.interop.stores import CheckpointStore
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import Progress, newest_checkpoint, resolve
from cosmos_train.train.checkpoint.load import load_weights
from cosmos_train.train.checkpoint.save import save_run
from cosmos_train.train.checkpoint.saver import Saver
from cosmos_train.train.ema import Ema, profiles
from cosmos_train.train.finite import name_not_finite


def names_on(rank_with_them: int) -> str:
    """What this rank says of tensors of which one rank has two that are not finite."""
    mesh = init.start(ParallelConfig(), seed=0)
    tensors = {"a": torch.ones(3), "b": torch.ones(2, 2), "c": torch.ones(1)}
    if mesh.world.rank() == rank_with_them:
        tensors["a"][1], tensors["b"][0] = torch.nan, torch.inf
    return name_not_finite(tensors, mesh)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_say_what_one_has(ranks: Callable[[int], RankPool], rank: int):
    said = "1 of 3 numbers of a, and of 1 other tensors are not finite (NaN or infinity)"
    assert ranks(2).run(names_on, rank) == [said, said]
    assert ranks(2).run(names_on, 7) == ["", ""]


def save_broken(cache: Path, run_dir: Path, parallel: ParallelConfig) -> str:
    """Save a checkpoint with a NaN in it, as versions before this check did; the tensor's name."""
    run = tiny_world.make_run(cache, run_dir, parallel)
    task, engine, mesh = tiny_world.start(run)
    name, param = next((name, param) for name, param in task.pieces[0].named_parameters() if param.ndim > 1)
    with torch.no_grad():
        param.view(-1)[0] = torch.nan
    progress = Progress(
        step=2,
        samples_consumed=8,
        seed=run.seed,
        data_digest=task.data_digest,
        sample_order=SAMPLE_ORDER,
        score=None,
        layout=mesh.layout,
        wandb_id=None,
        code_version="test",
    )
    with Saver(mesh) as saver:
        save_run(saver, run_dir, engine, Ema(engine, profiles(run.optim)), progress, to_yaml(run))
        saver.wait()
    return name


def read_weights(cache: Path, run_dir: Path, parallel: ParallelConfig) -> None:
    """As for sampling."""
    task, _, mesh = tiny_world.start(tiny_world.make_run(cache, run_dir, parallel))
    load_weights(resolve(run_dir), task.pieces, mesh)


def test_a_checkpoint_with_nan_is_not_read(ranks: Callable[[int], RankPool], tmp_path: Path):
    """By a run that would go on from it, by one that starts from its weights, and by what reads it tensor by tensor."""
    cache, run_dir = tiny_world.write_cache(tmp_path / "cache"), tmp_path / "run"
    name, _ = ranks(2).run(save_broken, cache, run_dir, ParallelConfig(tp=2))
    said = rf"numbers of {name} are not finite"
    for number, settings in enumerate(({"num_steps": 4}, {"checkpoint": {"init_from": str(run_dir)}})):
        target = run_dir if number == 0 else tmp_path / "other"
        found = ranks(2).run(training.failure_of, training.run_loop, cache, target, ParallelConfig(), settings)
        assert found[0][0] in ("CheckpointError", "NotFiniteError")
        assert str(run_dir) in found[0][1] and re.search(said, found[0][1]), found[0][1]
    found = ranks(2).run(training.failure_of, read_weights, cache, run_dir, ParallelConfig(tp=2))
    assert found[0] == found[1] and found[0][0] == "CheckpointError" and re.search(said, found[0][1]), found[0][1]
    folder = newest_checkpoint(run_dir)
    assert folder is not None
    with pytest.raises(ValueError, match=said):
        CheckpointStore(folder, averaged=False).read(name)
    with pytest.raises(ValueError, match=said):
        open_source(run_dir).ours.read(name)
