"""Step time by rank and phase: what is said of it, and what the loop measures of a rank that is slow."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.loop import DONE
from cosmos_train.train.telling.rank_times import PHASES, RankTimes, read_rank_times

TIMES = RankTimes(
    20,
    ["a", "a", "b", "b"],
    [0, 0, 0, 0],
    {
        "data": [0.1, 0.1, 0.1, 0.3],
        "forward": [0.2, 0.2, 0.3, 0.2],
        "backward": [0.5, 0.5, 0.4, 0.3],
        "optimizer": [0.1] * 4,
        "save": [0.1] * 4,
    },
)


def test_who_is_slow_where_and_by_how_much():
    found = TIMES.straggler()
    assert (found.rank, found.host, found.phase) == (3, "b", "data")
    assert found.lost_sec == pytest.approx(0.2) and found.lost_share == pytest.approx(0.2)
    assert TIMES.slowest_hosts() == [("b", pytest.approx(0.45)), ("a", pytest.approx(0.3))]
    assert TIMES.means()["data_sec"] == pytest.approx(0.15)


def test_of_two_ranks_one_is_behind_the_other():
    phases = {phase: [0.0, 0.0] for phase in PHASES} | {"forward": [0.25, 0.75]}
    of_two = RankTimes(20, ["a", "b"], [0, 0], phases)
    assert of_two.straggler().lost_sec == 0.5 and of_two.straggler().rank == 1


def test_pipeline_stages_are_not_compared():
    stages = replace(TIMES, stages=[0, 0, 1, 1])
    assert stages.straggler().lost_sec == pytest.approx(0.1), "rank 3 is behind rank 2 of its stage"
    alone = replace(TIMES, stages=[0, 1, 2, 3])
    assert alone.straggler().lost_sec == 0


def test_kept_in_the_run_folder(tmp_path: Path):
    assert read_rank_times(tmp_path) is None
    TIMES.write(tmp_path)
    assert read_rank_times(tmp_path) == TIMES
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.json"]


@pytest.mark.parametrize("phase", ["data", "forward"])
def test_a_slow_rank_is_found_by_the_loop(ranks: Callable[[int], RankPool], tmp_path: Path, phase: str):
    cache = tiny_world.write_cache(tmp_path / "cache")
    began = time.perf_counter()
    done = ranks(2).run(training.run_with_a_slow_rank, phase, cache, tmp_path / "run", ParallelConfig())
    took_sec = time.perf_counter() - began
    assert done == [DONE, DONE]
    times = read_rank_times(tmp_path / "run")
    assert times is not None and list(times.phases) == list(PHASES)
    slow, other = times.phases[phase][1], times.phases[phase][0]
    assert slow > 0.99 * training.SLOW_SEC and slow > 2 * other, "rank 1 sleeps in it"
    assert times.phases["backward"][0] > 0.5 * training.SLOW_SEC, "for which rank 0 waits"
    assert sum(seconds[0] for seconds in times.phases.values()) < took_sec
    noted = [event for event in training.events(tmp_path / "run") if event["event"] == "straggler"]
    assert {(event["rank"], event["host"], event["phase"]) for event in noted} == {(1, "n1", phase)}
    logged = training.records(tmp_path / "run")[-1]
    assert logged[f"{phase}_sec"] == pytest.approx((slow + other) / 2)
