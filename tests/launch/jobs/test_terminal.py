"""A process that prints goes on when nobody reads it any more, and is still told that a disk is full."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = """
import pathlib, sys, time
from cosmos_launch.jobs.terminal import outlive_terminal
outlive_terminal()
print("up ü", flush=True)
while not pathlib.Path(sys.argv[1], "gone").exists():
    time.sleep(0.01)
for number in range(3):
    print("nobody reads", number, flush=True)
    print("this either", file=sys.stderr)
pathlib.Path(sys.argv[1], "end").touch()
"""


def start(folder: Path, output: int) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS, str(folder)],
        env=environment,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    os.close(output)
    return process


@pytest.mark.parametrize("make", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_it_goes_on_when_its_reader_is_gone(tmp_path: Path, make):
    reading, writing = make()
    process = start(tmp_path, writing)
    assert os.read(reading, 100).decode().startswith("up ü")
    os.close(reading)
    (tmp_path / "gone").touch()
    assert process.wait(60) == 0
    assert (tmp_path / "end").exists()


def test_what_is_printed_comes_out_in_its_order(tmp_path: Path):
    (tmp_path / "gone").touch()
    output = tmp_path / "output"
    process = start(tmp_path, os.open(output, os.O_WRONLY | os.O_CREAT))
    assert process.wait(60) == 0
    told = output.read_text().splitlines()
    assert [line for line in told if line != "this either"] == ["up ü", *(f"nobody reads {k}" for k in range(3))]
    assert told.count("this either") == 3


def test_another_error_is_an_error(tmp_path: Path):
    process = start(tmp_path, os.open("/dev/full", os.O_WRONLY))
    assert process.wait(60) != 0
    assert not (tmp_path / "end").exists()
