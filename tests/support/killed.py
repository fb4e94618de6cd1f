"""Runs of the tiny tokenizer, which reads clips and augments them, killed with -9 in a save or at random."""

import os
import random
import select
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import tiny_tokenizer

from cosmos_train.parallel.engine import Engine
from cosmos_train.train.checkpoint import files as checkpoint_files
from cosmos_train.train.checkpoint import folder as checkpoint_folder
from cosmos_train.train.checkpoint import saver as checkpoint_saver
from cosmos_train.train.checkpoint.files import FileOfRank, WriterProcess

SAVE = 2
"""Of this start, in which its rank is killed: so that each start leaves a checkpoint."""


@dataclass(frozen=True)
class Kill:
    """Where SIGKILL meets a rank: in the middle of its SAVE-th save, or where a seed says."""

    phase: str
    """plan, bytes, copy (from the staging folder), seal (before the rename), prune, or random"""
    rank: int = 0
    seed: int = 0
    """Of random: which step of this start, and when in it."""


def run(kill: Kill | None, manifest: Path, run_dir: Path, settings: dict[str, Any]) -> int:
    """Train as `cosmos-train train` does, until killed."""
    if kill is None or int(os.environ["RANK"]) != kill.rank:
        return tiny_tokenizer.run_loop(manifest, run_dir, settings)
    with pytest.MonkeyPatch.context() as patch:
        arm = {"random": _at_random, "prune": _in_prune}.get(kill.phase, _in_save)
        arm(kill, patch, is_asynchronous=settings["checkpoint"].asynchronous)
        return tiny_tokenizer.run_loop(manifest, run_dir, settings)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[..., object]) -> None:
    """Have `act` called with the arguments of a function before that is."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        act(*arguments)
        return original(*arguments, **named)

    patch.setattr(owner, name, wrapped)


def _at_random(kill: Kill, patch: pytest.MonkeyPatch, *, is_asynchronous: bool) -> None:
    drawn, steps = random.Random(kill.seed), 0
    due, after_sec = drawn.randrange(2, 5), drawn.uniform(0.0, 0.2)

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == due:
            threading.Timer(after_sec, _die).start()

    _before(patch, Engine, "train_step", count)


def _in_prune(kill: Kill, patch: pytest.MonkeyPatch, *, is_asynchronous: bool) -> None:
    def look(path: Path, *_: Any) -> None:
        if path.suffix == checkpoint_folder.PARTIAL and (path / checkpoint_folder.MARKER).exists():
            (path / checkpoint_folder.MARKER).unlink()  # begun
            _die()

    _before(patch, checkpoint_folder.shutil, "rmtree", look)


def _in_save(kill: Kill, patch: pytest.MonkeyPatch, *, is_asynchronous: bool) -> None:
    saves = 0

    def count(*_: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == SAVE and kill.phase == "plan":
            _die()

    _before(patch, checkpoint_saver, "save_state", count)
    if kill.phase == "seal":
        _before(patch, Path, "rename", lambda path, *_: _die() if saves == SAVE and path.suffix == ".partial" else None)
    elif kill.phase != "plan" and is_asynchronous:
        original = WriterProcess.start

        def start_and_die(self: WriterProcess, files: list[FileOfRank]) -> None:
            if saves < SAVE:
                original(self, files)
                return
            assert files[0].staged is not None
            if kill.phase == "copy":
                os.mkfifo(files[0].path)  # its writer waits in the middle of the copy, where the pipe is full
                reader = os.open(files[0].path, os.O_RDONLY | os.O_NONBLOCK)
                original(self, files)
                select.select([reader], [], [])
            else:
                original(self, files)
                while not files[0].staged.exists():
                    pass
            self.process.kill()
            _die()

        patch.setattr(WriterProcess, "start", start_and_die)
    elif kill.phase == "bytes":
        written = 0

        def count_items(*_: Any) -> None:
            nonlocal written
            written += saves == SAVE
            if written == 5:
                _die()

        _before(patch, checkpoint_files, "write_item", count_items)
    elif kill.phase == "copy":

        def copy_half(source: Any, target: Any, *_: Any) -> None:
            if saves == SAVE:
                content = source.read()
                target.write(content[: len(content) // 2])
                target.flush()
                _die()

        _before(patch, shutil, "copyfileobj", copy_half)
