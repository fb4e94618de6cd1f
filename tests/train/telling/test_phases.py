"""Where a step's time goes, on this rank: each phase has what was spent in it, all have no more than passed."""

import time
from collections.abc import Iterator

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.telling.phases import PhaseTimer

SPENT_SEC = {"data": 0.02, "forward": 0.04, "backward": 0.03, "optimizer": 0.05, "save": 0.06}


def slow_batches() -> Iterator[int]:
    for number in range(4):
        time.sleep(SPENT_SEC["data"])
        yield number


def one_step(timer: PhaseTimer, batches: Iterator[int]) -> None:
    def forward_loss(*_: object) -> str:
        time.sleep(SPENT_SEC["forward"])
        return "loss"

    timed = timer.timed_batches(batches)
    with timer.step(timed) as gradients_are_summed:
        next(timed)
        assert timer.timed(forward_loss)(None, None, None) == "loss"
        time.sleep(SPENT_SEC["backward"])
        gradients_are_summed()
        time.sleep(SPENT_SEC["optimizer"])
    assert timed.waited_sec >= SPENT_SEC["data"] and not timed.waits


def test_means_over_the_steps_since_they_were_gathered_last():
    timer, batches = PhaseTimer(init.start(ParallelConfig(), seed=0), "n7"), slow_batches()
    begin = time.perf_counter()
    for _ in range(2):
        one_step(timer, batches)
    with timer.saving():
        time.sleep(2 * SPENT_SEC["save"])
    passed_sec = time.perf_counter() - begin
    times = timer.gather(step=2)
    init.stop()
    assert (times.step, times.hosts, times.stages) == (2, ["n7"], [0])
    found = {phase: seconds for phase, [seconds] in times.phases.items()}
    assert found.keys() == SPENT_SEC.keys()
    assert all(found[phase] >= 0.99 * SPENT_SEC[phase] for phase in found)
    assert 2 * sum(found.values()) <= passed_sec * 1.01, "no time is counted twice"
    assert timer.steps == [] and timer.saving_sec == 0
