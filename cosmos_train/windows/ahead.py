"""Items that are made while a step computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class _Made(NamedTuple):
    item: Any = None
    error: BaseException | None = None


class Ahead(Generic[S, T]):
    """Iterates over items of which so many are made by another thread, from now on, before they are wanted. What that
    raises is raised where the item would stand.

    `close` ends it in order: what was asked for ahead is made to its end, since ranks that make items together have all
    asked for equally many. One that is dropped, as when a rank fails, holds nobody up: its thread may wait for other
    ranks for ever, and ends with the process.
    """

    def __init__(self, items: Iterator[S], finish: Callable[[S], T], number: int = 2) -> None:
        """finish: what the thread that wants an item makes of it at last, such as to wait for its copy."""
        self._finish = finish
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._made: SimpleQueue[_Made] = SimpleQueue()
        for _ in range(number):
            self._wanted.put(True)
        self._thread = Thread(target=_make, args=(items, self._wanted, self._made), daemon=True, name="ahead")
        self._thread.start()

    def __iter__(self) -> "Ahead[S, T]":
        return self

    def __next__(self) -> T:
        made = self._made.get()
        if made.error is not None:
            self._made.put(made)  # it would come again
            raise made.error
        self._wanted.put(True)
        return self._finish(made.item)

    def close(self) -> None:
        """Wait for the thread to end."""
        self._wanted.put(False)
        self._thread.join()

    def __del__(self) -> None:
        self._wanted.put(False)


def _make(items: Iterator[S], wanted: SimpleQueue[bool], made: SimpleQueue[_Made]) -> None:
    try:
        while wanted.get():
            made.put(_Made(next(items)))
    except BaseException as error:  # the end of the items, too: whoever wants them meets it
        made.put(_Made(error=error))
    finally:
        if isinstance(items, Generator):
            items.close()


def as_it_is(item: T) -> T:
    """The item, for an Ahead that has nothing to finish."""
    return item


def map_ahead(function: Callable[[S], T], items: Iterable[S], number: int) -> Generator[T, None, None]:
    """The function of each item, in their order, of so many at a time before they are wanted, each in a thread.

    What the function raises is raised where its result would stand. Items are taken by the caller's thread.
    """
    left, makers = iter(items), ThreadPoolExecutor(number)
    try:
        waiting = deque(makers.submit(function, item) for item in islice(left, number))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(makers.submit(function, item) for item in islice(left, 1))
            yield found
    finally:
        makers.shutdown(cancel_futures=True)
