"""Items that are made while a step computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def make_ahead(items: Iterator[T], number: int = 2) -> Generator[T, None, None]:
    """The same items, so many of them made by another thread before they are wanted. What it raises is raised here."""
    maker = ThreadPoolExecutor(1)
    try:
        waiting = deque(maker.submit(_next, items) for _ in range(number))
        while found := waiting.popleft().result():
            waiting.append(maker.submit(_next, items))
            yield found[0]
    finally:  # also where the caller stops early: what is being made is waited for, the rest is dropped
        maker.shutdown(cancel_futures=True)


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
