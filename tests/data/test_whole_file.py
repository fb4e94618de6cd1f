"""A file is complete under its name, or absent, and what was left of those who were killed is removed."""

import os
import signal
import time
from pathlib import Path

import pytest

from cosmos_data import writer
from cosmos_data.whole_file import ABANDONED_SEC, remove_abandoned, whole_file
from cosmos_data.writer import own_name


@pytest.mark.parametrize("is_flushed", [False, True])
def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path, is_flushed: bool):
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(path, is_flushed=is_flushed) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), whole_file(path, is_flushed=is_flushed) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def writing(folder: Path, name: str, told: int) -> None:
    """Writes a file, says so, and goes on until somebody ends it."""
    with whole_file(folder / name) as aside:
        aside.write_text("half")
        os.write(told, b"x")
        signal.pause()


def start_writing(folder: Path, name: str) -> int:
    """The number of a process that does, when it has begun."""
    read, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            writing(folder, name, told)
        finally:
            os._exit(1)
    assert os.read(read, 1) == b"x"
    os.close(read)
    os.close(told)
    return child


def test_what_was_killed_here_is_removed_at_once(tmp_path: Path):
    """Not what others write, here or, as far as one can tell from here, elsewhere."""
    killed, alive = start_writing(tmp_path, "a.arrow"), start_writing(tmp_path, "b.arrow")
    try:
        half, whole = sorted(tmp_path.iterdir())
        elsewhere = half.with_name(half.name.replace(own_name().partition("-")[0], "0123456789abcdef"))
        elsewhere.write_text("half")
        # Processes take each other's numbers in the course of time.
        reused = whole.with_name(f"{whole.name.rpartition(f'-{alive}-')[0]}-{alive}-1.0.partial")
        reused.write_text("half")
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([whole, elsewhere])
    finally:
        for child in (killed, alive):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_who_can_not_be_seen_may_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel may hide other users' processes in /proc."""
    machine, ended = own_name().partition("-")[0], os.fork()
    if not ended:
        os._exit(0)
    os.waitpid(ended, 0)
    monkeypatch.setattr(writer, "PROCESSES", tmp_path)
    assert writer.is_gone(f"{machine}-{ended}-1") and not writer.is_gone(f"{machine}-{os.getpid()}-1")
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:  # root may send a signal to anyone
                os.setuid(65534)
            os._exit(writer.is_gone(f"{machine}-1-1"))
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_what_was_killed_elsewhere_is_removed_when_it_is_old(tmp_path: Path):
    old, new, shard = (tmp_path / name for name in (".a.arrow.x.partial", ".b.arrow.x.partial", "a.arrow"))
    for path in (old, new, shard):
        path.write_text("")
    long_ago = time.time() - ABANDONED_SEC - 60
    os.utime(old, (long_ago, long_ago))
    os.utime(shard, (long_ago, long_ago))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([new, shard])


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path):
    path = tmp_path / ("é" * 125 + ".txt")
    with whole_file(path) as aside:
        aside.write_text("new")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
