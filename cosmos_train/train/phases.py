"""Measures the phases of steps on this rank, and gathers them where they are logged: one collective of five numbers.

On a GPU forward, backward and optimizer are times of the device, by events that are read when they are logged, so that
nothing waits for them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from cosmos_train.parallel.engine import ForwardLoss
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train.rank_times import PHASES, RankTimes

Mark = float | torch.cuda.Event
"""A moment: of this process's clock, or of the device's queue."""


class TimedIterator(Iterator):
    """Counts how long the step waited for data."""

    def __init__(self, batches: Iterator) -> None:
        self.batches, self.waited_sec = batches, 0.0

    def __next__(self) -> object:
        started = time.perf_counter()
        batch = next(self.batches)
        self.waited_sec += time.perf_counter() - started
        return batch


@dataclass(slots=True)
class _Step:
    """Moments of one step."""

    begin: Mark
    forwards: list[tuple[Mark, Mark]] = field(default_factory=list)
    summed: Mark | None = None
    end: Mark | None = None
    waited_sec: float = 0.0


class PhaseTimer:
    """This rank's phases since they were gathered last.

    Args:
        host: this machine, as it is named to people.
    """

    def __init__(self, mesh: Mesh, host: str) -> None:
        self.mesh = mesh
        self.hosts: list[Any] = [None] * mesh.world.size()
        dist.all_gather_object(self.hosts, host, group=mesh.world)
        self.steps: list[_Step] = []
        self.saving_sec = 0.0

    def timed(self, forward_loss: ForwardLoss) -> ForwardLoss:
        """The same function, whose time is forward."""

        def timed(*arguments: Any) -> Any:
            begin = self._mark()
            result = forward_loss(*arguments)
            self.steps[-1].forwards.append((begin, self._mark()))
            return result

        return timed

    @contextmanager
    def step(self, batches: TimedIterator) -> Iterator[Callable[[], None]]:
        """Around an optimizer step. Gives a function to be called when gradients are summed."""
        step, waited_sec = _Step(self._mark()), batches.waited_sec
        self.steps.append(step)

        def gradients_are_summed() -> None:
            step.summed = self._mark()

        yield gradients_are_summed
        step.end, step.waited_sec = self._mark(), batches.waited_sec - waited_sec

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around what a checkpoint takes of the loop's time."""
        started = time.perf_counter()
        yield
        self.saving_sec += time.perf_counter() - started

    def gather(self, step: int) -> RankTimes:
        """All ranks' phases, means over the steps since the last call; called on every rank."""
        if self.mesh.device.type == "cuda":
            torch.cuda.synchronize(self.mesh.device)
        sums = [sum(column) for column in zip(*map(_phases_of, self.steps), strict=True)] + [self.saving_sec]
        mine = torch.tensor(sums, dtype=torch.float32, device=self.mesh.device) / len(self.steps)
        everyones = mine.new_empty(len(self.hosts) * len(PHASES))
        dist.all_gather_into_tensor(everyones, mine, group=self.mesh.world)
        self.steps, self.saving_sec = [], 0.0
        columns = everyones.view(-1, len(PHASES)).T.tolist()
        return RankTimes(step, self.hosts, dict(zip(PHASES, columns, strict=True)))

    def _mark(self) -> Mark:
        if self.mesh.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _phases_of(step: _Step) -> tuple[float, float, float, float]:
    """Seconds of data, forward, backward and optimizer."""
    assert step.summed is not None and step.end is not None
    forward = sum(_seconds(begin, end) for begin, end in step.forwards)
    backward = _seconds(step.begin, step.summed) - forward - step.waited_sec
    return step.waited_sec, forward, max(0.0, backward), _seconds(step.summed, step.end)


def _seconds(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float):
        assert isinstance(end, float)
        return end - begin
    assert isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return begin.elapsed_time(end) / 1000
