"""Work in threads that may be given up: a decoder that hangs on a file can not be stopped, only left behind.

The threads are daemons, so one that never ends does not keep the process from ending, as a thread of an executor would.
"""

from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from cosmos_data.errors import StallError
from cosmos_data.plan import Sample

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stalled(Exception):
    """`positions`: of the items that were begun and are not done."""

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(f"items {list(positions)} are not done")
        self.positions = tuple(positions)


def map_in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], *, num_threads: int, stall_sec: float
) -> list[Result | Exception]:
    """What `work` gives or raises for each item. Raises `Stalled` where for so long none is finished."""
    waiting: SimpleQueue[int] = SimpleQueue()
    finished: SimpleQueue[tuple[int, Result | Exception]] = SimpleQueue()
    begun: set[int] = set()
    for position in range(len(items)):
        waiting.put(position)

    def serve() -> None:
        while True:
            try:
                position = waiting.get_nowait()
            except Empty:
                return
            begun.add(position)
            try:
                finished.put((position, work(items[position])))
            except Exception as error:  # handed to the caller, who knows which kinds to expect
                finished.put((position, error))

    for _ in range(min(num_threads, len(items))):
        Thread(target=serve, name="decode", daemon=True).start()
    results: dict[int, Result | Exception] = {}
    while len(results) < len(items):
        try:
            position, result = finished.get(timeout=stall_sec)
        except Empty:
            raise Stalled(sorted(begun - set(results))) from None
        results[position] = result
    return [results[position] for position in range(len(items))]


def stall_error(samples: Iterable[Sample], stall_sec: float) -> StallError:
    """Names what was being decoded."""
    clips = ", ".join(f"{sample.clip.clip_id} ({sample.clip.path}, frame {sample.start_frame})" for sample in samples)
    return StallError(
        f"decoding has stood still for data.stall_sec={stall_sec:g} s at {clips}; look at that storage, name the clip"
        " in data.quarantine, or allow more time"
    )
