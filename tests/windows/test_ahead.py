"""Items are made before they are wanted, in their order, and their errors come where they stood."""

import threading
from collections.abc import Iterator

import pytest

from cosmos_train.windows.ahead import Ahead, as_it_is, map_ahead


def test_items_are_made_ahead_in_order_and_elsewhere():
    made, threads, third = [], set(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            threads.add(threading.get_ident())
            if number == 2:
                third.set()
            yield number

    found = Ahead(items(), as_it_is, 2)
    assert next(found) == 0 and third.wait(60), "nobody asked for it yet"
    assert made == [0, 1, 2], "and for no more"
    assert [0, *found] == made == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads


def test_an_error_comes_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    found = Ahead(items(), as_it_is)
    assert next(found) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(found)


def test_false_items_are_items():
    assert list(Ahead(iter([0, None, ""]), as_it_is)) == [0, None, ""]
    assert list(Ahead(iter([]), as_it_is)) == []


def test_the_last_touch_is_the_callers():
    threads = []

    def finish(number: int) -> int:
        threads.append(threading.get_ident())
        return 10 * number

    assert list(Ahead(iter([1, 2]), finish)) == [10, 20] and set(threads) == {threading.get_ident()}


def test_what_is_asked_for_ahead_is_made_where_it_is_closed_and_items_end_then():
    """Ranks that make items together would wait for one that made fewer."""
    made, ended = [], threading.Event()

    def items() -> Iterator[int]:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            ended.set()

    found = Ahead(items(), as_it_is, 3)
    assert [next(found), next(found)] == [0, 1]
    found.close()
    assert made == [0, 1, 2, 3, 4] and ended.is_set()


def test_one_that_is_dropped_holds_nobody_up():
    """As where a rank fails, and its thread waits for another one."""
    never = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        never.wait()

    found = Ahead(items(), as_it_is, 2)
    assert next(found) == 0
    thread = found._thread
    del found
    assert thread.is_alive() and thread.daemon
    never.set()
    thread.join(60)
    assert not thread.is_alive()


def test_what_is_being_made_when_the_caller_stops_is_waited_for():
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def items() -> Iterator[int]:
        yield 0
        begun.set()
        may_end.wait(60)
        ended.append(threading.current_thread())
        yield 1

    found = Ahead(items(), as_it_is, 1)
    assert next(found) == 0 and begun.wait(60)
    threading.Timer(0.01, may_end.set).start()
    found.close()
    assert len(ended) == 1 and not ended[0].is_alive()


def test_a_function_is_called_ahead_so_many_times_at_once_and_its_results_are_in_order():
    all_there, taken, threads = threading.Barrier(3), [], set()

    def items() -> Iterator[int]:
        for number in range(6):
            taken.append((number, threading.current_thread() is threading.main_thread()))
            yield number

    def square(number: int) -> int:
        threads.add(threading.get_ident())
        all_there.wait(60)  # three calls at a time, or it raises
        return number**2

    found = map_ahead(square, items(), 3)
    assert not taken, "nothing begins before the first is wanted"
    assert next(found) == 0
    assert taken == [(number, True) for number in range(4)], "three are made while the first is used"
    assert list(found) == [1, 4, 9, 16, 25]
    assert len(threads) == 3 and list(map_ahead(square, [], 3)) == []


def test_an_error_of_the_function_comes_where_its_result_would_and_threads_end():
    threads = []

    def half(number: int) -> int:
        threads.append(threading.current_thread())
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    found = map_ahead(half, [0, 2, 3, 4, 6, 8, 10, 12], 2)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="3 is odd"):
        next(found)
    assert len(threads) <= 4 and not any(thread.is_alive() for thread in threads)


def test_a_closed_one_waits_for_its_calls_and_makes_no_more():
    begun, may_end, calls = threading.Semaphore(0), threading.Event(), []

    def note(number: int) -> int:
        begun.release()
        assert number == 0 or may_end.wait(60)
        calls.append(threading.current_thread())
        return number

    found = map_ahead(note, iter(range(100)), 2)
    assert next(found) == 0
    assert all(begun.acquire(timeout=60) for _ in range(3))
    threading.Timer(0.01, may_end.set).start()
    found.close()
    assert len(calls) == 3 and not any(thread.is_alive() for thread in calls)
