"""A save that is interrupted anywhere leaves the one before; one beside training holds what it began with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import saving, tiny_world, training
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint_folder import damage_of, digest_of, list_checkpoints, step_of
from cosmos_train.train.loop import DONE, STOPPED

ONE, TP2, DP2 = ParallelConfig(), ParallelConfig(tp=2), ParallelConfig()
EVERY_TWO = {"every_steps": 2, "keep_last": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="module")
def uninterrupted(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on one process that saves while it stands still."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    settings = {"num_steps": 6, "checkpoint": EVERY_TWO}
    assert ranks(1).run(training.run_loop, cache, run_dir, ONE, settings) == [DONE]
    return run_dir


def steps_of(run_dir: Path) -> list[int]:
    return [step_of(folder) for folder in list_checkpoints(run_dir)]


@pytest.mark.parametrize("is_staged", [False, True], ids=["direct", "staged"])
def test_saved_beside_training_is_what_is_saved_standing_still(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path, is_staged: bool
):
    run_dir, staging = tmp_path / "run", tmp_path / "local"
    keep = EVERY_TWO | {"asynchronous": True} | ({"staging_dir": str(staging)} if is_staged else {})
    settings = {"num_steps": 6, "checkpoint": keep}
    assert ranks(1).run(training.run_loop, cache, run_dir, ONE, settings) == [DONE]
    assert steps_of(run_dir) == steps_of(uninterrupted) == [2, 4, 6]
    for mine, theirs in zip(list_checkpoints(run_dir), list_checkpoints(uninterrupted), strict=True):
        assert damage_of(mine) == []
        [file], [other] = (list(folder.glob("*.distcp")) for folder in (mine, theirs))
        assert digest_of(file) == digest_of(other), "the step's own weights and moments, bit for bit"
    for event in training.events(run_dir):
        assert event["event"] != "save" or 0 < event["blocked_sec"] < event["total_sec"]
    assert not is_staged or not [path for path in staging.rglob("*") if path.is_file()]


def test_resume_of_a_run_that_saves_beside_training_is_bit_identical(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path
):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    settings = {"num_steps": 6, "checkpoint": EVERY_TWO}
    beside = settings | {"checkpoint": EVERY_TWO | {"asynchronous": True}}
    assert ranks(2).run(training.run_loop, cache, whole, TP2, settings) == [DONE, DONE]
    assert ranks(2).run(training.run_loop, cache, parted, TP2, beside | {"stop_at_step": 3}) == [STOPPED, STOPPED]
    assert steps_of(parted) == [2, 3], "what was pending is waited for"
    assert ranks(2).run(training.run_loop, cache, parted, TP2, beside) == [DONE, DONE]
    assert training.losses(parted) == training.losses(whole)


@pytest.mark.parametrize(
    ("phase", "asynchronous", "left"),
    [("plan", True, [2]), ("write", True, [2]), ("write", False, [2]), ("rename", True, [2]), ("prune", True, [4])],
)
def test_killed_in_any_phase_of_a_save(
    ranks: Callable[[int], RankPool],
    cache: Path,
    tmp_path: Path,
    uninterrupted: Path,
    phase: str,
    asynchronous: bool,
    left: list[int],
):
    """A process of its own is killed at its second save; the next one finds the first save, or the second."""
    keep = EVERY_TWO | {"keep_last": 1, "asynchronous": asynchronous}
    settings = {"num_steps": 6, "checkpoint": keep}
    pool = RankPool(1)
    with pytest.raises((EOFError, ConnectionError)):
        pool.run(training.killed_while_saving, phase, cache, tmp_path, ONE, settings)
    pool.close()
    assert steps_of(tmp_path) == left
    assert ranks(1).run(training.run_loop, cache, tmp_path, ONE, settings) == [DONE]
    assert training.losses(tmp_path) == training.losses(uninterrupted)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]


def test_what_is_due_after_one_step_is_written_one_after_the_other(ranks: Callable[[int], RankPool], tmp_path: Path):
    """The second folder is begun while nothing is written yet; those of the next step wait for both."""
    for begun in ranks(2).run(saving.save_twice_a_step, tmp_path, DP2):
        assert begun[:2] == [(1, []), (2, [])]
        assert begun[2] == (1, ["a-1", "b-1"]) and begun[3][0] <= 2
        assert begun[4] == (0, ["a-1", "a-2", "b-1", "b-2"])
    for number, name in enumerate(("a-1", "b-1", "a-2", "b-2"), start=1):
        assert damage_of(tmp_path / name) == []
        [found] = ranks(1).run(saving.read, tmp_path / name, ["value"])
        assert (found["value"] == number).all(), "as it was when its save began"
