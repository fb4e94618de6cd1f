"""One file of a cache that fills: rows by key, read from an open file one by one, each with a checksum of its own.

What a damaged file leads to becomes a `DataError`; what the system can not do just now stays an OSError.
"""

import json
import os
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cosmos_data.caches.shard_file import ShardFile, open_shard
from cosmos_data.errors import DataError

USED_SEC = 60.0
"""A shard that is read is marked as used so often at most."""

REMEDY = "it can be removed: what it held is made again"

KEY_DIGITS = 64
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("about", pa.string(), nullable=False),
        pa.field("crc32", pa.int64(), nullable=False),
    ]
)


class KeyedRow(NamedTuple):
    """A keyed row is kept under a key."""

    value: Tensor
    """[n, *shape]: shape and type are those of the shard, n is the row's own."""
    about: Mapping[str, Any]
    """Whatever else is to be known, in values that JSON knows."""


class KeyedFile:
    """Reads rows of a shard: what it says of them is in memory, their data are in the open file."""

    def __init__(self, path: Path, kind: str, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)  # when the last thread that reads is done
        shard = open_checked(path, kind, facts)
        self._shape, self._dtype = shard.facts["shape"], getattr(torch, shard.facts["dtype"])
        mapped = shard.batch.drop_columns(["data"])
        self._rows = pa.ipc.read_record_batch(mapped.serialize(), mapped.schema)
        _, ends, _ = shard.batch.column("data").buffers()
        self._ends = shard.data_start + np.frombuffer(ends, np.int64, len(shard) + 1)
        bounds = np.array([0, *self._ends, os.fstat(self._descriptor).st_size])
        if (bounds[1:] < bounds[:-1]).any():
            raise ValueError("its rows' data do not lie one after the other in the file")
        self._used_sec = -float("inf")

    def identity(self) -> "FileIdentity":
        """Return that of the open file, which need not be the one that has its name by now."""
        return identity_of(os.fstat(self._descriptor))

    def key(self, row: int) -> str:
        """Return the whole key of a row."""
        return self._rows.column("key")[row].as_py()

    def read(self, row: int) -> KeyedRow:
        """Read a row's value. Raises whatever there is where it is damaged, which damage_told turns into DataError."""
        about, crc32 = (self._rows.column(name)[row].as_py() for name in ("about", "crc32"))
        first_byte, end = self._ends[row : row + 2].tolist()
        content = torch.empty(end - first_byte, dtype=torch.uint8)
        if os.preadv(self._descriptor, [content.numpy().data], first_byte) != len(content):
            raise ValueError("it is cut off")
        value = content.view(self._dtype).view(-1, *self._shape)
        if crc32_of(self.key(row), about, value) != crc32:
            raise ValueError(f"row {row} is not what was written")
        return KeyedRow(value, json.loads(about))

    def mark_as_used(self) -> None:
        """Set the time by which the least recently used go. Raises FileNotFoundError where it is gone."""
        if time.monotonic() - self._used_sec < USED_SEC:
            return
        self._used_sec = time.monotonic()
        try:
            os.utime(self._path)
        except FileNotFoundError:
            raise
        except OSError:
            return  # not ours to touch


class FileIdentity(NamedTuple):
    """What differs when a file was made anew, or touched, although it has the inode of the old one."""

    inode: int
    changed_ns: int
    num_bytes: int


def identity_of(stat: os.stat_result) -> FileIdentity:
    """Return what tells a file from a later one of its name."""
    return FileIdentity(stat.st_ino, stat.st_ctime_ns, stat.st_size)


@contextmanager
def damage_told() -> Iterator[None]:
    """Turn whatever a damaged shard leads to into a `DataError`; what the system can not do stays an OSError.

    What a shard says of itself has no checksum of its own, so a bit of it that changed may be met anywhere.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        pa.ArrowException,
    ) as error:
        refused = of_system(error)
        if refused is not None:
            raise refused from None
        raise DataError(f"{type(error).__name__}: {error}; {REMEDY}") from error
    except OSError as error:
        if error.errno is None:  # of pyarrow, for bytes that are missing
            raise DataError(f"{error}; {REMEDY}") from error
        raise


def of_system(error: Exception) -> OSError | None:
    """Return what the operating system refused, where that is the cause; None where it is not."""
    cause = error.__cause__ if isinstance(error, DataError) else error
    return cause if isinstance(cause, OSError) and cause.errno is not None else None


def open_checked(path: Path, kind: str, facts: Mapping[str, Any]) -> ShardFile:
    """Open a shard. Raises `DataError` where it is not there, another's, or cut off."""
    shard = open_shard(path, kind, remedy=REMEDY)
    found = {name: shard.facts.get(name) for name in facts}
    if found != facts:
        raise DataError(f"it was made with {found} and not with {facts}")
    shard.batch.drop_columns(["data"]).validate(full=True)  # what is not valid may end the process
    return shard


def key_starts(shard: ShardFile) -> np.ndarray:
    """Return the first 8 bytes of each row's key, uint64."""
    _, _, text = shard.batch.column("key").buffers()
    keys = bytes.fromhex(text.to_pybytes()[: KEY_DIGITS * len(shard)].decode("ascii"))
    return np.frombuffer(keys, dtype=">u8").reshape(len(shard), 4)[:, 0].astype(np.uint64)


def crc32_of(key: str, about: str, value: Tensor) -> int:
    """Return a row's checksum: over its key, what is said of it, and its value with type and shape."""
    said = f"{key}{about}{value.dtype}{list(value.shape)}"
    return zlib.crc32(value.flatten().view(torch.uint8).numpy().data, zlib.crc32(said.encode()))
