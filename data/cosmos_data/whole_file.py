"""Files that others read at any moment are written aside and renamed: each is complete under its name, or absent."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from cosmos_data.writer import is_gone, own_name

PARTIAL = ".partial"
NAME_BYTES = 100
"""So much of a file's name is in the name aside, which may have 255 bytes in all."""
ABANDONED_SEC = 3600
"""A file in the making for so long is of a process that was killed; that of one of this machine is known at once."""


@contextlib.contextmanager
def whole_file(path: Path, *, is_flushed: bool = False) -> Iterator[Path]:
    """Yield a file to write instead of `path`, which it becomes at the end of the block.

    What was there stays until then. Where the block fails nothing is left of the new one.

    is_flushed: whether its bytes are on the disk before it has its name, and its name before this returns.
    """
    aside = aside_name(path)
    try:
        yield aside
        if is_flushed:
            flush(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    if is_flushed:
        flush(path.parent)


def aside_name(path: Path) -> Path:
    """Return a name beside `path` that no other process has, on any node, and that says whose it is."""
    start = path.name.encode()[:NAME_BYTES].decode(errors="ignore")
    return path.with_name(f".{start}.{own_name()}.{uuid4().hex[:8]}{PARTIAL}")


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed have left half-written."""
    oldest = time.time() - ABANDONED_SEC
    for path in folder.glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):  # another process was faster, or may do it
            if is_gone(path.name.split(".")[-3]) or path.stat().st_mtime < oldest:
                path.unlink()


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
