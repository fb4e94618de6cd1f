"""A rank's file and the process that writes it: what it holds, what that process hears, what becomes of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.planner_helpers import _create_write_item_for_tensor

from cosmos_train.train.checkpoint.files import FileOfRank, WriterProcess, Written, write_file
from cosmos_train.train.checkpoint.folder import digest_of
from cosmos_train.train.signals import STOP_SIGNALS, StopSignals

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def writer() -> Iterator[WriterProcess]:
    process = WriterProcess()
    yield process
    process.close()


def file_of(folder: Path, tensors: list[Tensor], staged: Path | None = None) -> FileOfRank:
    folder.mkdir(exist_ok=True)
    items = [(_create_write_item_for_tensor(str(number), tensor), tensor) for number, tensor in enumerate(tensors)]
    return FileOfRank(folder / "__0_0.distcp", [], items, staged)


def done(writer: WriterProcess) -> list[Written]:
    result = writer.result()
    assert isinstance(result, list), result
    return result


def copies_of(writer: WriterProcess, sources: list[Tensor]) -> list[Tensor]:
    return [copy.copy_(source) for copy, source in zip(writer.make_room(sources), sources, strict=True)]


def read(folder: Path, written: Written) -> list[Tensor]:
    content = (folder / written.name).read_bytes()
    found = []
    for result in written.results:
        begin, length = result.storage_data.offset, result.storage_data.length
        (folder / "part").write_bytes(content[begin : begin + length])
        found.append(torch.load(folder / "part", weights_only=True))
    return found


def made(seed: int, scale: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 5 * scale), (), (0,), (7,), (2, 2, 2)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [*tensors, torch.randn(9, generator=generator).bfloat16(), torch.arange(3)]


def test_training_goes_on_and_the_file_holds_what_was_copied(writer: WriterProcess, tmp_path: Path):
    for number, scale in enumerate((1, 1000, 10)):  # the memory grows, and is kept
        sources = made(number, scale)
        expected = [source.clone() for source in sources]
        writer.forget()
        copies = copies_of(writer, sources)
        for source in sources:
            source.zero_()
        folder = tmp_path / str(number)
        writer.start([file_of(folder, copies)])
        [written] = done(writer)
        assert all(map(torch.equal, read(folder, written), expected))
        assert written.digest == digest_of(folder / written.name)


def test_made_in_a_staging_folder_and_gone_from_there(tmp_path: Path):
    tensors = made(0)
    written = write_file(file_of(tmp_path / "step-00000001.partial", tensors, tmp_path / "local" / "file"))
    assert all(map(torch.equal, read(tmp_path / "step-00000001.partial", written), tensors))
    assert not list((tmp_path / "local").iterdir())


def test_a_failure_is_an_answer_and_the_next_file_is_written(writer: WriterProcess, tmp_path: Path):
    file = file_of(tmp_path / "gone", copies_of(writer, made(1)))
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").touch()
    writer.start([file])
    assert isinstance(writer.result(), OSError)
    writer.start([file_of(tmp_path / name, copies_of(writer, made(1))) for name in ("one", "two")])
    assert [written.digest for written in done(writer)] == [
        digest_of(tmp_path / name / "__0_0.distcp") for name in ("one", "two")
    ]


def test_it_does_not_hear_stop_signals_and_its_death_is_told(tmp_path: Path):
    with StopSignals():  # as a rank does
        process = WriterProcess()
    process.start([file_of(tmp_path / "first", copies_of(process, made(1)))])
    assert len(done(process)) == 1
    for number in STOP_SIGNALS:
        process.process.send_signal(number)
    process.start([file_of(tmp_path / "second", copies_of(process, made(1)))])
    assert len(done(process)) == 1
    process.process.kill()
    process.process.wait()
    assert process.is_done()
    assert "has ended (exit code -9)" in str(process.result())
    process.close()


def test_it_does_not_outlive_its_rank(tmp_path: Path):
    """Its rank is killed while it hangs in a write: in a pipe that nobody reads."""
    program = """
import os, signal, sys
from pathlib import Path
from cosmos_train.train.checkpoint.files import FileOfRank, WriterProcess
writer, folder = WriterProcess(), Path(sys.argv[1])
writer.start([FileOfRank(folder / "first", [], [], None)])
writer.result()
os.mkfifo(folder / "second")
writer.start([FileOfRank(folder / "second", [], [], None)])
print(writer.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    for _ in range(100):
        if not Path(f"/proc/{int(ended.stdout)}").exists():
            return
        time.sleep(0.05)
    os.kill(int(ended.stdout), signal.SIGKILL)
    raise AssertionError("it is still there")
