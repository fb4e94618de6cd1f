"""A rank that hangs, or whose fellows failed, ends within its time and leaves its stacks."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cosmos_train.train.failures import read_failures, record_failure
from cosmos_train.train.watchdog import Watchdog

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, time
from pathlib import Path
from cosmos_train.train import watchdog
watchdog.POLL_SEC, watchdog.GRACE_SEC = 0.05, 0.3
folder, limit_sec = Path(sys.argv[1]), float(sys.argv[2])

def wait_in_a_collective():
    {wait}

with watchdog.Watchdog(folder / "stacks", folder / "failures", rank=1, num_ranks=3, limit_sec=limit_sec) as dog:
    dog.hosts = ["n0", "n1", "n2"]
    dog.on_hang = lambda sentence: (folder / "told").write_text(sentence)
    wait_in_a_collective()
"""


def start(folder: Path, limit_sec: float, wait: str = "time.sleep(60)") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.format(wait=wait), str(folder), str(limit_sec)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_hang_ends_with_stacks_and_names_the_silent(tmp_path: Path):
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "rank-00002.txt").write_text("its stacks")
    process = start(tmp_path, 0.5)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "wait_in_a_collective" in (tmp_path / "stacks" / "rank-00001.txt").read_text()
    assert "no step was finished in 0.5 s (train.hang_sec); rank 0 gave no sign, others' stacks are in" in err
    assert (tmp_path / "told").read_text() == "no step was finished in 0.5 s (train.hang_sec)"
    first = read_failures(tmp_path / "failures")[0]
    assert first.sentence in err
    assert (first.rank, first.host, first.was_silent) == (0, "n0", True), "its node may be why"


def test_native_code_that_keeps_pythons_lock_is_ended_too(tmp_path: Path):
    """ctypes.PyDLL calls without releasing it; no thread of Python runs until sleep returns."""
    process = start(tmp_path, 0.5, wait="import ctypes; ctypes.PyDLL(None).sleep(60)")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "wait_in_a_collective" in err


def test_anothers_failure_ends_a_rank_that_waits(tmp_path: Path):
    process = start(tmp_path, 0.0)
    time.sleep(0.3)
    assert process.poll() is None, "no limit, no failure"
    record_failure(tmp_path / "failures", rank=0, host="n1", code=1, sentence="out of memory")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, ""), "it has nothing to say"
    assert "wait_in_a_collective" in (tmp_path / "stacks" / "rank-00001.txt").read_text()


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cosmos_train.train.watchdog.POLL_SEC", 0.02)
    with Watchdog(tmp_path / "stacks", tmp_path / "failures", rank=0, num_ranks=1, limit_sec=0.5) as watchdog:
        for _ in range(10):
            time.sleep(0.1)
            watchdog.beat()
    assert not (tmp_path / "stacks").exists()
