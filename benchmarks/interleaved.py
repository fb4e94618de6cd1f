"""Two ways of doing the same, timed in turns: a busy moment of the machine meets both."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def time_in_turns(sides: Mapping[str, Callable[[], Any]], rounds: int, *, warmups: int) -> dict[str, Any]:
    """Median and range of each side's seconds; medians over rounds of the ratio first side / second side.

    time_ratio is of wall time, cpu_ratio of processor time, which other processes disturb less.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    cpu_seconds: dict[str, list[float]] = {side: [] for side in sides}
    for round_index in range(-warmups, rounds):
        for side in list(sides) if round_index % 2 else reversed(list(sides)):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            sides[side]()
            if round_index >= 0:
                seconds[side].append(time.perf_counter() - begin)
                cpu_seconds[side].append(time.process_time() - cpu_begin)
    figures: dict[str, Any] = {"rounds": rounds}
    for side, times in seconds.items():
        figures[f"{side}_sec"] = round(statistics.median(times), 4)
        figures[f"{side}_range_sec"] = [round(min(times), 4), round(max(times), 4)]
    for key, times in (("time_ratio", seconds), ("cpu_ratio", cpu_seconds)):
        first, second = times.values()
        figures[key] = round(statistics.median(a / b for a, b in zip(first, second, strict=True)), 3)
    return figures
