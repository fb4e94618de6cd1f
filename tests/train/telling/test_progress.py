"""Without a terminal: a line at the end, and none for each thing that is done."""

import re

import pytest

from cosmos_train.train.telling import progress as module
from cosmos_train.train.telling.progress import progress


def test_a_line_at_the_end(capsys: pytest.CaptureFixture[str]):
    with progress("read", "videos") as advance:
        for done in range(1, 4):
            advance(done, 3)
    assert re.fullmatch(r"read: 3/3 videos in \d+\.\d s\n", capsys.readouterr().out)


def test_a_line_now_and_then_with_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    seconds = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with progress("read", "videos") as advance:
        for done in (1, 2, 3, 4):
            advance(done, 8)
    assert capsys.readouterr().out == "read: 2/8 videos, 18 s left\nread: 4/8 videos, 12 s left\n"


def test_nothing_where_another_process_tells(capsys: pytest.CaptureFixture[str]):
    with progress("read", "videos", is_told=False) as advance:
        advance(3, 3)
    assert capsys.readouterr() == ("", "")
