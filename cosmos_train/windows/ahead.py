"""Batches that are made while a step computes."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def make_ahead(items: Iterator[T], number: int = 2) -> Iterator[T]:
    """The same items, so many of them made by another thread before they are wanted. What it raises is raised here."""
    with ThreadPoolExecutor(1) as maker:
        waiting = deque(maker.submit(_next, items) for _ in range(number))
        while found := waiting.popleft().result():
            waiting.append(maker.submit(_next, items))
            yield found[0]


def _next(items: Iterator[T]) -> tuple[T] | tuple[()]:
    """Nothing at the end; a future can not hold the exception that says so."""
    for item in items:
        return (item,)
    return ()
