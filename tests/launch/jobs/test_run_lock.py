"""One training at a time in a folder, and nobody waits for one that is gone. With Slurm: tests/slurm/test_queue.py."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cosmos_launch.jobs.run_lock import LOCK, Owner, training_alone
from cosmos_train.config.errors import ConfigError

HOLD = """
import sys
from pathlib import Path
from cosmos_launch.jobs.run_lock import training_alone
with training_alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""

RACE = """
import sys, time
from pathlib import Path
from cosmos_launch.jobs.run_lock import training_alone
from cosmos_train.config.errors import ConfigError
run_dir = Path(sys.argv[1])

def wait_for(name):
    while not (run_dir / name).exists():
        time.sleep(0.001)

for line in sys.stdin:
    number = line.strip()
    print("ready", flush=True)
    wait_for(f"go{number}")
    try:
        with training_alone(run_dir):
            print("held", flush=True)
            wait_for(f"end{number}")
    except ConfigError as error:
        print("refused", error, flush=True)
    print("over", flush=True)
"""


def start(program: str, *arguments: Path | str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def hold(run_dir: Path) -> subprocess.Popen:
    """A process that holds the folder until it is told to end."""
    process = start(HOLD, run_dir)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def is_free(run_dir: Path) -> bool:
    try:
        with training_alone(run_dir):
            return True
    except ConfigError:
        return False


def test_a_process_that_lives_holds_it_and_one_that_was_killed_does_not(tmp_path: Path):
    first = hold(tmp_path)
    with pytest.raises(ConfigError) as caught, training_alone(tmp_path):
        pass
    said = f"run_dir={tmp_path} is being trained by process {first.pid} on host {platform.node()}, and two trainings"
    assert said in str(caught.value) and f"remove {tmp_path}/{LOCK}" in str(caught.value)
    first.kill()
    while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:  # it is gone before anybody asks for its code
        pass
    assert (tmp_path / LOCK).exists() and is_free(tmp_path)
    first.wait()
    assert not (tmp_path / LOCK).exists()


def test_it_is_given_back_at_the_end(tmp_path: Path):
    process = hold(tmp_path)
    process.communicate("end\n", timeout=60)
    assert not (tmp_path / LOCK).exists()


def test_a_later_process_of_the_same_number_is_another(tmp_path: Path):
    mine = Owner.this_process()
    (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(mine)))
    assert not is_free(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(mine) | {"started": mine.started - 60}))
    assert is_free(tmp_path)


@pytest.mark.parametrize(
    "left", [b"", b"{", b"\0\xff", b"[" * 99999, b'{"host": "gone"}'], ids=lambda left: repr(left)[:20]
)
def test_what_a_lost_machine_left_holds_nobody_up(tmp_path: Path, left: bytes):
    (tmp_path / LOCK).write_bytes(left)
    assert is_free(tmp_path)


def test_nothing_else_of_that_name_holds_anybody_up(tmp_path: Path):
    (tmp_path / LOCK).mkdir()
    assert is_free(tmp_path)
    (tmp_path / LOCK).symlink_to(tmp_path / "nowhere")
    assert is_free(tmp_path) and not list(tmp_path.iterdir())


STARTS = 3


def test_of_many_that_start_at_once_one_trains(tmp_path: Path):
    """Several times, each time over a lock that a killed process has left; all wait until one says `go`."""
    racers = [start(RACE, tmp_path) for _ in range(STARTS)]
    gone = start("")
    gone.wait()
    for number in range(4):
        (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(Owner(platform.node(), gone.pid, 0.0, None))))
        for racer in racers:
            assert racer.stdin is not None and racer.stdout is not None
            racer.stdin.write(f"{number}\n")
            racer.stdin.flush()
        assert all(racer.stdout.readline() == "ready\n" for racer in racers if racer.stdout)
        (tmp_path / f"go{number}").touch()
        answers = sorted(racer.stdout.readline().split()[0] for racer in racers if racer.stdout)
        assert answers == ["held", *["refused"] * (STARTS - 1)]
        (tmp_path / f"end{number}").touch()
        assert all(racer.stdout.readline() == "over\n" for racer in racers if racer.stdout)
    for racer in racers:
        racer.communicate("", timeout=60)
    assert not [path.name for path in tmp_path.iterdir() if LOCK in path.name], "nothing is left aside"


def test_a_file_system_without_hard_links_has_the_lock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Path) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with training_alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid() and not is_free(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["[1]", "{}", "null", '{"host": 1, "pid": "x", "started": [], "job": {}}', "\x00", '"a"']
)
def test_what_names_no_process_holds_nobody_up(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture):
    (tmp_path / LOCK).write_text(content)
    assert is_free(tmp_path) and "is passed over" in caplog.text


def test_a_process_of_another_host_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Without a Slurm job nobody can be asked about it."""
    elsewhere = Owner(host="another-host", pid=17, started=0.0, job=None)
    (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(elsewhere)))
    assert is_free(tmp_path) and "names process 17 on host another-host" in caplog.text
