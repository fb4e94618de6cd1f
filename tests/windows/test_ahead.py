"""Items are made before they are wanted, in their order, and their errors come where they stood."""

import threading
from collections.abc import Iterator

import pytest

from cosmos_train.windows.ahead import make_ahead


def test_items_are_made_ahead_in_order_and_elsewhere():
    made, threads, third = [], set(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            threads.add(threading.get_ident())
            if number == 2:
                third.set()
            yield number

    found = make_ahead(items(), 2)
    assert next(found) == 0 and third.wait(10), "nobody asked for it yet"
    assert made == [0, 1, 2], "and for no more"
    assert [0, *found] == made == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads


def test_an_error_comes_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    found = make_ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(found)


def test_false_items_are_items():
    assert list(make_ahead(iter([0, None, ""]))) == [0, None, ""]
    assert list(make_ahead(iter([]))) == []
