"""Steps that are not finite are skipped alike on every rank, named, counted, and at last stop the run. What a run tells
W&B of where it comes from, over restarts and forks.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_world, training, wandb_files
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import damage_of, newest_checkpoint, read_progress, resolve
from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.signals import DONE, STOPPED


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine windows to train on, one of which is NaN: every second step or so has it."""
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache", broken=True)


LAYOUTS = [
    ParallelConfig(),
    pytest.param(ParallelConfig(tp=2), marks=pytest.mark.long),
    ParallelConfig(pp=2),
]
"""The last stage of a pipeline alone sees a loss, so what it shows holds where all ranks see one."""


@pytest.mark.parametrize("parallel", LAYOUTS)
def test_a_step_that_is_not_finite_leaves_no_trace(
    ranks: Callable[[int], RankPool], broken: Path, tmp_path: Path, parallel: ParallelConfig
):
    assert ranks(2).run(training.run_loop, broken, tmp_path, parallel, {"num_steps": 8}) == [DONE, DONE]
    skipped = [event for event in training.events(tmp_path) if event["event"] == "skipped"]
    assert 0 < len(skipped) < 8
    for event in skipped:
        assert event["first_sample"] == 4 * (event["step"] - 1) and event["num_samples"] == 4
        assert "grad_norm" in event["not_finite"]
    alerts = [event for event in training.events(tmp_path) if event["event"] == "alert"]
    assert [alert["step"] for alert in alerts if alert["cause"] == "not finite"] == [event["step"] for event in skipped]
    trained = training.losses(tmp_path)
    assert set(trained) | {event["step"] for event in skipped} == set(range(1, 9))
    assert all(loss == loss for loss in trained.values())
    newest = resolve(tmp_path)
    assert read_progress(newest).skipped_steps == len(skipped) and damage_of(newest) == []
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
    newest = newest_checkpoint(tmp_path)
    assert (0 if newest is None else read_progress(newest).step) == step - 1


def test_ranks_that_read_other_data_are_told_before_the_first_step(ranks: Callable[[int], RankPool], tmp_path: Path):
    cache = tiny_world.write_cache(tmp_path / "cache")
    told = ranks(2).run(training.failure_of, training.run_with_other_data_on_rank_1, cache, tmp_path / "run")
    assert told[0] == told[1] and told[0][0] == "ConfigError"
    assert "rank 1 reads data with digest ffffffffffff" in told[0][1]


NO_FINITE_END: dict[str, tuple[dict, str]] = {
    "an infinite update": (
        {"num_steps": 1, "optim": {"lr": 1e300, "warmup_steps": 0}},
        r"numbers of net\..* and of \d+ other tensors are not finite \(NaN or infinity\) after step 1; they are not",
    ),
    "weights noticed by the next step": (
        {"num_steps": 9, "optim": {"lr": 1e300, "warmup_steps": 0}, "checkpoint": {"every_steps": 9}},
        r"are not finite \(NaN or infinity\) after step 2; they are not saved",
    ),
    "losses of weights that are too large": (
        {"num_steps": 4, "optim": {"lr": 1e30, "warmup_steps": 0}},
        r"from step 2 to 4, the last, and the samples of step 1 have no finite loss now either: the run has failed",
    ),
}


@pytest.mark.parametrize("parallel", LAYOUTS)
@pytest.mark.parametrize("name", NO_FINITE_END)
def test_a_run_that_ends_without_finite_numbers_has_failed(
    ranks: Callable[[int], RankPool], tmp_path: Path, name: str, parallel: ParallelConfig
):
    """On all ranks, in one sentence; what is saved is finite, and a second start does not call it done either."""
    cache, (settings, said) = tiny_world.write_cache(tmp_path / "cache"), NO_FINITE_END[name]
    for _ in range(2):
        found = ranks(2).run(training.failure_of, training.run_loop, cache, tmp_path / "run", parallel, settings)
        assert found[0] == found[1] and found[0][0] == "FloatingPointError"
        assert re.search(said, found[0][1]), found[0][1]
        assert [event["event"] for event in training.events(tmp_path / "run")][-1] == "failed"
        said = "not finite"
    if newest_checkpoint(tmp_path / "run") is not None:
        [average] = ranks(1).run(training.saved_average, cache, tmp_path / "run", ParallelConfig())
        assert all(tensor.isfinite().all() for tensor in average.values())


def test_a_run_of_nothing_but_bad_samples_is_not_done(ranks: Callable[[int], RankPool], tmp_path: Path):
    cache = tiny_world.write_cache(tmp_path / "cache", num_windows=6, broken=True)
    settings = {"num_steps": 1, "global_batch_size": 4, "checkpoint": {"every_steps": 1}}
    [(name, message), _] = ranks(2).run(
        training.failure_of, training.run_loop, cache, tmp_path / "run", ParallelConfig(), settings
    )
    assert (
        name == "FloatingPointError"
        and "not finite from step 1 to 1, the last, and no step was before them: the run has failed" in message
    )
    assert newest_checkpoint(tmp_path / "run") is None


def test_a_run_is_one_at_weights_and_biases_and_a_fork_is_another(ranks: Callable[[int], RankPool], tmp_path: Path):
    cache, parent, fork = tiny_world.write_cache(tmp_path / "cache"), tmp_path / "parent", tmp_path / "fork"
    keep_all = {"every_steps": 1, "keep_last": 4}
    tracked = {"num_steps": 4, "run": {"tracking": TrackingConfig(wandb="offline")}, "checkpoint": keep_all}
    for stop_at_step in (1, None):
        ranks(2).run(training.run_loop, cache, parent, ParallelConfig(), tracked | {"stop_at_step": stop_at_step})
    resumed = tracked | {"checkpoint": keep_all | {"resume_from": str(parent / "checkpoints" / "step-00000001")}}
    for stop_at_step in (2, None):
        ranks(2).run(training.run_loop, cache, fork, ParallelConfig(), resumed | {"stop_at_step": stop_at_step})
    first, second = wandb_files.read(parent)
    assert first.run_id == second.run_id and (first.exit_code, second.exit_code) == (STOPPED, DONE)
    assert first.losses | second.losses == training.losses(parent)
    assert first.config["model"] == second.config["model"] and first.config["start"]["code_version"] == "test"
    forked, again = wandb_files.read(fork)
    assert forked.run_id == again.run_id != first.run_id
    start = forked.config["start"]
    assert (start["from_wandb_id"], start["from_step"]) == (first.run_id, 1)
    assert start["source"] == "checkpoint.resume_from" and start["ranks"] == 2
    assert [start["from_wandb_id"] for start in again.config["starts"]] == [first.run_id, forked.run_id]


def test_peak_memory_is_that_of_the_rank_with_the_most(ranks: Callable[[int], RankPool]):
    (own, told), (own_hungry, told_hungry) = ranks(2).run(training.own_and_peak_memory)
    most = {"peak_host_memory_gib": pytest.approx(max(own, own_hungry), rel=1e-3)}
    assert told == told_hungry == most
