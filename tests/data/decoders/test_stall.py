"""Work in threads: every item's own answer, and a thread that does not come back is named with what it is at."""

from collections.abc import Iterator
from dataclasses import replace
from threading import Event, Thread

import pytest
from support.clips import CLIP

from cosmos_data.config import DataConfig
from cosmos_data.decoders.stall import Stalled, Workers, stall_error
from cosmos_data.sample_plan.plan import central_sample


@pytest.fixture
def gate() -> Iterator[Event]:
    """What hanging work waits for; opened at the end, so that no thread stays."""
    event = Event()
    yield event
    event.set()


def test_answers_are_in_order_and_errors_are_their_own_item_s():
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    workers = Workers(halve, num_threads=3, stall_sec=60)
    for _ in range(2):  # threads have ended in between
        found = workers.map([4, 5, 6, 8, 10])
        assert found[:1] + found[2:] == [2, 3, 4, 5] and str(found[1]) == "5 is odd"
    assert workers.map([]) == []


def test_what_hangs_is_named_to_every_caller(gate: Event):
    begun = Event()

    def work(name: str) -> str:
        if name == "hangs":
            begun.set()
            gate.wait()
        return name

    workers = Workers(work, num_threads=1, stall_sec=0.1)
    seen: list[Stalled] = []

    def first_caller() -> None:
        try:
            workers.map(["hangs"])
        except Stalled as stalled:
            seen.append(stalled)

    caller = Thread(target=first_caller)
    caller.start()
    assert begun.wait(60)
    with pytest.raises(Stalled) as another:
        workers.map(["well"])
    caller.join()
    assert another.value.items == ("hangs",) and seen[0].items == ("hangs",)


def test_two_threads_work_at_once():
    met = Event()
    workers = Workers(lambda is_first: met.wait(60) if is_first else met.set(), num_threads=2, stall_sec=60)
    assert workers.map([True, False]) == [True, None]


def test_the_error_names_clips_and_remedies():
    config = DataConfig(manifest="m", num_frames=5, height_px=16, width_px=16)
    sample = central_sample(replace(CLIP, clip_id="clip 7"), config)
    said = str(stall_error([sample], 2.5))
    assert "data.stall_sec=2.5 s at clip 7 (/a.mp4, frame 100)" in said and "data.quarantine" in said
