"""Files and folders written aside and renamed, so that each is complete under its name, or absent.

cosmos_data has its like for the files that many processes write into one folder: the two packages are strangers, and a
third one below both would be a package for one function.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

NAME_BYTES = 100
"""So much of a file's name is in the name aside, which may have 255 bytes in all."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a file to write instead of `path`, which it becomes at the end of the block; several processes may make the
    same one. Where the block fails nothing is left of it."""
    start = path.name.encode()[:NAME_BYTES].decode(errors="ignore")
    aside = path.with_name(f".{start}.{uuid4().hex}.partial")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield the name of a folder to make instead of `folder`, which it becomes at the end of the block. Where the block
    fails nothing is left of it, and what a killed process has left is removed."""
    aside = folder.with_name(f".{folder.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    try:
        yield aside
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
