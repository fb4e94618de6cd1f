"""Work in threads that may be given up: a decoder that hangs on a file can not be stopped, only left behind.

The threads are daemons, so one that never ends does not keep the process from ending, as a thread of an executor would.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

from cosmos_data.errors import StallError
from cosmos_data.sample_plan.plan import Sample

Item = TypeVar("Item")
Result = TypeVar("Result")
Finished = SimpleQueue[tuple[int, Result | Exception]]


class Stalled(Exception, Generic[Item]):
    """`items`: those that have been worked on for too long."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__(f"{len(items)} items are not done")
        self.items = tuple(items)


class Workers(Generic[Item, Result]):
    """`work` in up to `num_threads` threads, which all callers of `map` share: what was asked for first is begun first.

    Threads end when there is nothing to do.
    """

    def __init__(self, work: Callable[[Item], Result], num_threads: int, stall_sec: float) -> None:
        self._work, self._num_threads, self._stall_sec = work, num_threads, stall_sec
        self._lock = Lock()
        self._waiting: deque[tuple[int, Item, Finished[Result]]] = deque()
        self._begun_sec: dict[int, tuple[float, Item]] = {}
        """By thread: since when it has been at which item."""
        self._threads: set[int] = set()

    def map(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Return what `work` gives or raises for each item. Raises `Stalled` where a thread does not come back from
        one, of whichever caller: nobody's items may be reached then."""
        return self.begin(items)()

    def begin(self, items: Sequence[Item]) -> Callable[[], list[Result | Exception]]:
        """Begin `map`, and return a function that waits for its answer."""
        finished: Finished[Result] = SimpleQueue()
        with self._lock:
            self._waiting.extend((position, item, finished) for position, item in enumerate(items))
            for name in set(range(self._num_threads)) - self._threads:
                if len(self._threads) < len(self._begun_sec) + len(self._waiting):
                    self._threads.add(name)
                    Thread(target=self._serve, args=(name,), name=f"decode-{name}", daemon=True).start()
        return partial(self._collect, finished, len(items))

    def _collect(self, finished: Finished[Result], num_items: int) -> list[Result | Exception]:
        results: dict[int, Result | Exception] = {}
        while len(results) < num_items:
            try:
                position, result = finished.get(timeout=self._patience_sec())
            except Empty:
                self._check_stalled()
            else:
                results[position] = result
        return [results[position] for position in range(num_items)]

    def _serve(self, name: int) -> None:
        while True:
            with self._lock:
                self._begun_sec.pop(name, None)
                if not self._waiting:
                    self._threads.remove(name)
                    return
                position, item, finished = self._waiting.popleft()
                self._begun_sec[name] = time.monotonic(), item
            try:
                finished.put((position, self._work(item)))
            except Exception as error:  # handed to the caller, who knows which kinds to expect
                finished.put((position, error))

    def _patience_sec(self) -> float:
        """Return how long it is until the item that was begun first will have taken too long."""
        with self._lock:
            now = time.monotonic()
            first = min((begun for begun, _ in self._begun_sec.values()), default=now)
        return max(0.01, first + self._stall_sec - now)

    def _check_stalled(self) -> None:
        with self._lock:
            latest = time.monotonic() - self._stall_sec
            late = [item for begun, item in self._begun_sec.values() if begun <= latest]
        if late:
            raise Stalled(late)


def stall_error(samples: Iterable[Sample], stall_sec: float) -> StallError:
    """Name what was being decoded."""
    clips = ", ".join(f"{sample.clip.clip_id} ({sample.clip.path}, frame {sample.start_frame})" for sample in samples)
    return StallError(
        f"decoding has stood still for data.stall_sec={stall_sec:g} s at {clips}; look at that storage, name the clip"
        " in data.quarantine, or allow more time"
    )
