"""A shard: one Arrow file, mapped into memory where it is read; complete under its name, or absent.

It has one batch of rows. The column `data` holds a tensor's bytes for each row, the other columns are the rows' index.
The schema says the rest: facts about the shard, among them its kind and its key, and the SHA-256 of all that is in it.
A file is named by its key, which names what the content is a function of, so any number of processes may write into one
folder: whoever comes second finds the same content.
"""

import contextlib
import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cosmos_data.errors import DataError, StorageError
from cosmos_data.whole_file import whole_file

VERSION = 1
FACTS_KEY, DIGEST_KEY = b"cosmos_data.shard", b"cosmos_data.sha256"
SUFFIX = ".arrow"
AGAIN = (
    "remove it, and index.json where the folder has one, and start `cosmos-train tokenize` again, which makes what is "
    "missing"
)

NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
"""Errors of a folder that is not for us to write in; others are of the disk."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """An open shard."""

    path: Path
    facts: Mapping[str, Any]
    digest: str
    """SHA-256 of facts, rows and data, as the writer computed it."""
    batch: pa.RecordBatch
    """Its columns lie in the mapped file."""
    data_start: int
    """Byte of the file at which the first row's data begin; the others follow without a gap."""

    def __len__(self) -> int:
        return self.batch.num_rows

    def row(self, number: int) -> dict[str, Any]:
        """Return the index of one row."""
        names = self.batch.schema.names[:-1]
        return {name: self.batch.column(place)[number].as_py() for place, name in enumerate(names)}

    def tensor(self, number: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """Return a row's data, copied into memory that torch aligns. One extent may be -1."""
        content = np.frombuffer(self.batch.column("data")[number].as_buffer(), dtype=np.uint8)
        copied = torch.empty(len(content), dtype=torch.uint8)
        copied.numpy()[:] = content
        return copied.view(dtype).view(*shape)

    def verify(self) -> None:
        """Read all of it. Raises `DataError` where it is not what was written."""
        rows = self.batch.drop_columns(["data"]).to_pylist()
        data = self.batch.column("data")
        num_bytes = [data[number].as_buffer().size for number in range(len(self))]
        sha256 = _sha256_of(self.facts, rows, num_bytes)
        for number in range(len(self)):
            sha256.update(data[number].as_buffer())
        if sha256.hexdigest() != self.digest:
            raise DataError(f"{self.path} has changed since it was written; {AGAIN}")


def key_of(what: Any) -> str:
    """Return the name of a shard that is a function of `what`: values that JSON knows."""
    return hashlib.sha256(json.dumps([VERSION, what], sort_keys=True).encode()).hexdigest()


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name by which a shard says of what type its tensors are: float32, without torch's own name."""
    return str(dtype).removeprefix("torch.")


def write_shard(
    path: Path,
    facts: Mapping[str, Any],
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    data: Sequence[Tensor],
    *,
    remedy: str = AGAIN,
) -> ShardFile:
    """Write a shard and open it. facts: with its `kind` and `key`; schema: of the rows; data: a tensor for each row;
    remedy: where what is there under this name, or was written, is not what it should be.

    Raises:
        DataError: there is a shard of this name with another content, or the folder can not be written to.
        StorageError: the disk is full, or gone.
    """
    facts = json.loads(json.dumps({**facts, "version": VERSION}))
    flat = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in data]
    num_bytes, content = [len(part) for part in flat], torch.cat(flat).numpy()
    sha256 = _sha256_of(facts, rows, num_bytes)
    sha256.update(content)
    digest = sha256.hexdigest()
    ends = np.array([0, *accumulate(num_bytes)], dtype=np.int64)
    column = pa.Array.from_buffers(pa.large_binary(), len(flat), [None, pa.py_buffer(ends), pa.py_buffer(content)])
    index = pa.RecordBatch.from_pylist(list(rows), schema=schema)
    said = {FACTS_KEY: json.dumps(facts, sort_keys=True).encode(), DIGEST_KEY: digest.encode()}
    whole = schema.append(pa.field("data", pa.large_binary())).with_metadata(said)
    batch = pa.RecordBatch.from_arrays([*index.columns, column], schema=whole)
    with written(path) as aside:
        with aside.open("wb") as file, pa.ipc.new_file(file, whole) as writer:
            writer.write_batch(batch)
        if path.exists():  # another process was faster
            _check_is_equal(path, facts["kind"], digest, remedy)
    return open_shard(path, facts["kind"], remedy=remedy)


def open_shard(path: Path, kind: str, *, remedy: str = AGAIN) -> ShardFile:
    """Open a shard. Raises `DataError`, with that remedy, where it is missing, cut off, or something else than its name
    says."""
    try:
        mapped = pa.memory_map(str(path))
        first_address = mapped.read_buffer(1).address
        reader = pa.ipc.open_file(mapped)
        if reader.num_record_batches != 1:
            raise ValueError(f"it has {reader.num_record_batches} batches of rows, not one")
        metadata = reader.schema.metadata or {}
        facts, digest = json.loads(metadata[FACTS_KEY]), metadata[DIGEST_KEY].decode()
        found = {name: facts[name] for name in ("version", "kind", "key")}
        batch = reader.get_batch(0)
        data_start = batch.column("data").buffers()[2].address - first_address
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {remedy}") from error
    except PermissionError as error:
        raise DataError(f"{path} can not be read (permission denied); let its owner allow it") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no shard, or was cut off ({error}); {remedy}") from error
    if found != {"version": VERSION, "kind": kind, "key": path.stem}:
        raise DataError(f"{path} holds another shard than its name says: {found}; {remedy}")
    return ShardFile(path, facts, digest, batch, data_start)


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a file to write instead of `path`, which it becomes at the end of the block, flushed to the disk; where the
    block fails nothing is left of it. Raises as write_shard does."""
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, is_flushed=True) as aside:
            yield aside


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in NOT_OURS:
            raise DataError(
                f"{path} can not be written ({reason}); name another folder, or let its owner fill it"
            ) from error
        raise StorageError(
            f"{path} can not be written ({reason}); make room, and start the same command again: what is finished stays"
        ) from error


def _check_is_equal(path: Path, kind: str, digest: str, remedy: str) -> None:
    if open_shard(path, kind, remedy=remedy).digest != digest:
        raise DataError(
            f"{path} is there with other bytes, although its name says that it was made of the same: another kind of "
            f"device or another version made it; {remedy}, or name another folder"
        )


def _sha256_of(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], num_bytes: Sequence[int]) -> Any:
    """Return the digest of all but the data, which is to follow."""
    return hashlib.sha256(json.dumps([facts, list(rows), list(num_bytes)], sort_keys=True).encode())
