"""Who failed first: in Python, and by the `sort` that the batch script asks."""

import subprocess
import time
from pathlib import Path

import pytest

from cosmos_train.train import failures
from cosmos_train.train.failures import describe, has_failed, read_failures, record_failure


def test_nothing_failed(tmp_path: Path):
    assert read_failures(tmp_path / "none") == []
    assert not has_failed(tmp_path / "none")


def test_the_first_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for rank, seconds in ((3, 7.25), (0, 7.5), (12, 7.125)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
        record_failure(tmp_path, rank=rank, host=f"n{rank}", code=1, sentence=f"of\trank\n{rank}")
    first = read_failures(tmp_path)[0]
    assert has_failed(tmp_path)
    assert describe(first) == "the first error was of rank 12 on n12: of rank 12"
    monkeypatch.setattr(time, "time", lambda: 9.0)
    record_failure(tmp_path, rank=5, host="n5", code=137, sentence="it was ended by SIGKILL", was_silent=True)
    first = read_failures(tmp_path)[0]
    assert (first.rank, first.code, first.was_silent) == (5, 137, True), "the others lost it"
    command = f"cat {tmp_path}/rank-* | sort -k 1,1n -k 2,2n | head -n 1"
    line = subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout
    assert failures._parse(line) == first


def test_what_a_rank_said_itself_stands(tmp_path: Path):
    record_failure(tmp_path, rank=1, host="n1", code=2, sentence="its own words")
    record_failure(tmp_path, rank=1, host="n1", code=1, sentence="it left with exit code 1")
    first = read_failures(tmp_path)[0]
    assert (first.code, first.sentence) == (2, "its own words")
    assert [path.name for path in tmp_path.iterdir()] == ["rank-00001"], "nothing is left aside"
