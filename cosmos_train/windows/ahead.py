"""Items that are made while a step computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def make_ahead(items: Iterator[T], number: int = 2) -> Generator[T, None, None]:
    """The same items, so many of them made by another thread, from now on, before they are wanted.

    What that raises is raised where the item would stand. Where the caller stops early, what it was given ahead is made
    to its end all the same: ranks that make items together have all asked for equally many.
    """
    maker = ThreadPoolExecutor(1)
    waiting = deque(maker.submit(_next, items) for _ in range(number))

    def handed_out() -> Generator[T, None, None]:
        try:
            while found := waiting.popleft().result():
                waiting.append(maker.submit(_next, items))
                yield found[0]
        finally:
            maker.shutdown()

    return handed_out()


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


def _next(items: Iterator[T]) -> tuple[T] | tuple[()]:
    """Nothing at the end; a future can not hold the exception that says so."""
    for item in items:
        return (item,)
    return ()
