"""A manifest as an Arrow file that is mapped into memory: opening it reads no row, and a row is read when asked for.

The file is Arrow's IPC format, in batches of BATCH_ROWS rows, with the columns of `rows`. Whoever writes it computes
what the others need of all rows: the digests of the manifest and of its splits, and the SHA-256 of the file itself,
with MARK where that stands. One process of a job compares this with the bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.rows import RECORDS, SCHEMA, SCHEMA_VERSION, VERSION_KEY, check_schema, from_row

BATCH_ROWS = 65_536
"""A column of text in one batch may hold 2 GiB: 32 KiB a row."""

DIGESTS_KEY, FILE_KEY = b"cosmos_data.digests", b"cosmos_data.sha256"
MARK = b"in the place of the file's own sha256 while that is computed".ljust(64, b".")

ENDS_BYTES = 1 << 20
"""Of the file's beginning and end: the schema with FILE_KEY stands in both."""

CHUNK_BYTES = 1 << 24

NESTED = ("captions", "views", *RECORDS)
"""Columns that hold records."""


class ClipTable:
    """The rows of a file."""

    def __init__(self, path: Path, *, verify: bool) -> None:
        """verify: whether every byte is read once and compared with what the writer computed.

        Raises:
            DataError: it is no such file, of another version, cut off or changed.
        """
        self._folder = path.parent
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} is no Arrow file, or cut off ({error}); build the manifest again") from error
        check_schema(reader.schema, path)
        self._names: list[str] = reader.schema.names
        self._type_of = {field.name: field.type for field in reader.schema}
        metadata = reader.schema.metadata
        self.digests: Mapping[str, str] = _digests(metadata, path)
        if verify and _file_sha256(path, metadata.get(FILE_KEY, b"")) != metadata.get(FILE_KEY):
            raise DataError(f"{path} has changed since it was written; build the manifest again")
        if any(batch.num_rows != BATCH_ROWS for batch in self._batches[:-1]):
            raise DataError(f"{path} was written by another program; build the manifest again")
        self._columns: dict[int, list[pa.Array]] = {}
        """Of batches that a row was read of: making them costs three times what reading a row does."""

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def __getitem__(self, row: int) -> Clip:
        number, place = divmod(row, BATCH_ROWS)
        columns = self._columns.get(number)
        if columns is None:
            columns = self._columns[number] = self._batches[number].columns
        values = {name: column[place].as_py() for name, column in zip(self._names, columns, strict=True)}
        if any(values.get(name) for name in NESTED):
            return from_row(values, row, self._folder)
        # Most rows are flat, and were checked when written; looking at each value takes as long as reading it.
        return Clip(**values | {"path": str(self._folder / values["path"]), "captions": (), "views": ()})

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all rows, as it lies in the file; of a file of before there was such a column, empty in
        each row."""
        if name not in self._names:
            return pa.chunked_array([pa.nulls(len(self), SCHEMA.field(name).type)])
        return pa.chunked_array([batch.column(name) for batch in self._batches], self._type_of[name])


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], digests: Mapping[str, str]) -> None:
    """Write rows of plain values as `rows.to_row` makes them. The writing is not atomic: write aside."""
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), DIGESTS_KEY: json.dumps(digests).encode(), FILE_KEY: MARK}
    schema = SCHEMA.with_metadata(metadata)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in _in_batches(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    sha256 = _file_sha256(path, MARK)
    with path.open("r+b") as file:
        for start, end in _ends(path.stat().st_size):
            file.seek(start)
            content = file.read(end - start).replace(MARK, sha256)
            file.seek(start)
            file.write(content)


def _in_batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


def _digests(metadata: Mapping[bytes, bytes], path: Path) -> dict[str, str]:
    try:
        digests = json.loads(metadata[DIGESTS_KEY])
        return {name: digests[name] for name in ("", "train", "heldout")}
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} does not say its digests; build the manifest again") from error


def _ends(num_bytes: int) -> list[tuple[int, int]]:
    """Return (first byte, byte after the last) of the parts in which the file's own SHA-256 stands."""
    if num_bytes <= 2 * ENDS_BYTES:
        return [(0, num_bytes)]
    return [(0, ENDS_BYTES), (num_bytes - ENDS_BYTES, num_bytes)]


def _file_sha256(path: Path, own: bytes) -> bytes:
    """Return, in hexadecimal digits, the SHA-256 of the file with MARK where its `own` stands. It is read, and not
    mapped: pages that are looked at once shall not count as this process's memory."""
    sha256 = hashlib.sha256()
    num_bytes = path.stat().st_size
    ends = _ends(num_bytes)
    with path.open("rb") as file:
        sha256.update(_with_mark(file.read(ends[0][1]), own))
        while (left := ends[-1][0] - file.tell()) > 0:
            sha256.update(file.read(min(left, CHUNK_BYTES)))
        sha256.update(_with_mark(file.read(), own))
    return sha256.hexdigest().encode()


def _with_mark(content: bytes, own: bytes) -> bytes:
    return content.replace(own, MARK) if own else content
