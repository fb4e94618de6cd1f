"""Steps that are not finite are skipped alike on every rank, named, counted, and at last stop the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train import checkpoint
from cosmos_train.train.loop import DONE


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine windows to train on, one of which is NaN: every second step or so has it."""
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache", broken=True)


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(tp=2), ParallelConfig(pp=2)])
def test_a_step_that_is_not_finite_leaves_no_trace(
    ranks: Callable[[int], RankPool], broken: Path, tmp_path: Path, parallel: ParallelConfig
):
    assert ranks(2).run(training.run_loop, broken, tmp_path, parallel, {"num_steps": 8}) == [DONE, DONE]
    skipped = [event for event in training.events(tmp_path) if event["event"] == "skipped"]
    assert 0 < len(skipped) < 8
    for event in skipped:
        assert event["first_sample"] == 4 * (event["step"] - 1) and event["num_samples"] == 4
        assert "grad_norm" in event["not_finite"]
    trained = training.losses(tmp_path)
    assert set(trained) | {event["step"] for event in skipped} == set(range(1, 9))
    assert all(loss == loss for loss in trained.values())
    [average] = ranks(1).run(training.saved_average, broken, tmp_path, ParallelConfig())
    assert all(torch.isfinite(tensor).all() for tensor in average.values())


def test_too_many_in_a_row_stop_the_run_and_spare_the_checkpoint(
    ranks: Callable[[int], RankPool], broken: Path, tmp_path: Path
):
    settings = {"num_steps": 20, "max_skipped_steps": 0, "checkpoint": {"every_steps": 1}}
    [(name, message), other] = ranks(2).run(
        training.failure_of, training.run_loop, broken, tmp_path, ParallelConfig(), settings
    )
    assert (name, message) == other and name == "FloatingPointError"
    step = next(event["step"] for event in training.events(tmp_path) if event["event"] == "skipped")
    assert f"not finite at step {step} (samples {4 * step - 4} to {4 * step - 1}), 1 steps in a row" in message
    newest = checkpoint.newest_checkpoint(tmp_path)
    assert (0 if newest is None else checkpoint.read_progress(newest).step) == step - 1
