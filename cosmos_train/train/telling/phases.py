"""Measures the phases of steps on this rank, and gathers them where they are logged: one collective of five numbers.

On a GPU all but saving are times of the device, by events that are read when they are logged, so that nothing waits for
them. What the process waits for data while the device still has work costs nothing, and does not count there.
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
from cosmos_train.train.task import Batches
from cosmos_train.train.telling.rank_times import PHASES, RankTimes

Mark = float | torch.cuda.Event
"""A moment: of this process's clock, or of the device's queue."""


class TimedIterator(Iterator):
    """Batches, and how long this process waited for them."""

    def __init__(self, batches: Batches, mark: Callable[[], Mark]) -> None:
        self.batches, self.mark, self.waited_sec = batches, mark, 0.0
        self.waits: list[tuple[Mark, Mark]] = []
        """Since they were taken last."""

    def __next__(self) -> object:
        begin, started = self.mark(), time.perf_counter()
        batch = next(self.batches)
        self.waited_sec += time.perf_counter() - started
        self.waits.append((begin, self.mark()))
        return batch

    def close(self) -> None:
        """Close the batches."""
        self.batches.close()

    def take_waits(self) -> list[tuple[Mark, Mark]]:
        """Begin and end of each since the last call."""
        taken, self.waits = self.waits, []
        return taken


@dataclass(slots=True)
class _Step:
    """Moments of one step."""

    begin: Mark
    waits: list[tuple[Mark, Mark]] = field(default_factory=list)
    forwards: list[tuple[Mark, Mark]] = field(default_factory=list)
    summed: Mark | None = None
    end: Mark | None = None


class PhaseTimer:
    """This rank's phases since they were gathered last.

    Args:
        host: this machine, as it is named to people.
    """

    def __init__(self, mesh: Mesh, host: str) -> None:
        self.mesh = mesh
        everyone: list[Any] = [None] * mesh.world.size()
        dist.all_gather_object(everyone, (host, mesh.pp.rank()), group=mesh.world)
        self.hosts, self.stages = map(list, zip(*everyone, strict=True))
        self.steps: list[_Step] = []
        self.saving_sec = 0.0

    def timed_batches(self, batches: Batches) -> TimedIterator:
        """The same batches; waiting for them is the phase data."""
        return TimedIterator(batches, self._mark)

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
        step = _Step(self._mark())
        self.steps.append(step)

        def gradients_are_summed() -> None:
            step.summed = self._mark()

        yield gradients_are_summed
        step.end, step.waits = self._mark(), batches.take_waits()

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
        return RankTimes(step, self.hosts, self.stages, dict(zip(PHASES, columns, strict=True)))

    def _mark(self) -> Mark:
        if self.mesh.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _phases_of(step: _Step) -> tuple[float, float, float, float]:
    """Seconds of data, forward, backward and optimizer."""
    assert step.summed is not None and step.end is not None
    data, forward = (sum(_seconds(*pair) for pair in pairs) for pairs in (step.waits, step.forwards))
    backward = _seconds(step.begin, step.summed) - forward - data
    return data, forward, max(0.0, backward), _seconds(step.summed, step.end)


def _seconds(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float):
        assert isinstance(end, float)
        return end - begin
    assert isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return begin.elapsed_time(end) / 1000
