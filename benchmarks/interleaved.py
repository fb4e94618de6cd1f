"""Ways of doing the same, timed in turns: a busy moment of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timings:
    """Holds each side's seconds, one of each round."""

    seconds: dict[str, list[float]]
    """Seconds of wall time."""
    cpu_seconds: dict[str, list[float]]
    """Seconds of processor time, which other processes disturb less."""


def in_turns(sides: Iterable[str], rounds: int, *, warmups: int = 0) -> Iterator[tuple[int, str]]:
    """Yield (number of the round, side), in the other order every second round. Rounds below 0 are warm-ups."""
    sides = list(sides)
    for number in range(-warmups, rounds):
        for side in order_of_round(sides, number):
            yield number, side


def order_of_round(sides: Iterable[str], number: int) -> list[str]:
    """Return the sides, in the other order every second round."""
    order = list(sides)
    return order if number % 2 else order[::-1]


def timings_in_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, *, warmups: int, wait: Callable[[], None] = lambda: None
) -> Timings:
    """Time each side in each round. wait: until a device has done what it was given."""
    timings = Timings({side: [] for side in sides}, {side: [] for side in sides})
    for number, side in in_turns(sides, rounds, warmups=warmups):
        wait()
        begin, cpu_begin = time.perf_counter(), time.process_time()
        sides[side]()
        wait()
        if number >= 0:
            timings.seconds[side].append(time.perf_counter() - begin)
            timings.cpu_seconds[side].append(time.process_time() - cpu_begin)
    return timings


def time_in_turns(sides: Mapping[str, Callable[[], Any]], rounds: int, *, warmups: int) -> dict[str, Any]:
    """Median and range of each side's seconds; medians over rounds of the ratio first side / second side.

    time_ratio is of wall time, cpu_ratio of processor time.
    """
    timings = timings_in_turns(sides, rounds, warmups=warmups)
    figures: dict[str, Any] = {"rounds": rounds}
    for side, times in timings.seconds.items():
        figures |= spread(times, f"{side}_")
    for key, times in (("time_ratio", timings.seconds), ("cpu_ratio", timings.cpu_seconds)):
        first, second = times.values()
        figures[key] = median_ratio(first, second)
    return figures


def spread(seconds: Sequence[float], prefix: str = "") -> dict[str, Any]:
    """Return the median and the range of seconds, under names that begin with the prefix."""
    return {
        f"{prefix}sec": round(statistics.median(seconds), 4),
        f"{prefix}range_sec": [round(min(seconds), 4), round(max(seconds), 4)],
    }


def median_ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two sides."""
    return round(statistics.median(one / other for one, other in zip(of, to, strict=True)), 3)
