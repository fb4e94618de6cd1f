"""The manifest: the versioned list of clips that everything else is a function of, for every kind of run.

One row per clip, in Arrow's file format (cosmos_data.manifests.table); the fields of `clip.Clip` say what each column
means. The same rows as Parquet and as JSON lines are read too. A clip is a run of consecutive frames of one video file,
or of several files that show the same moment: then the row's own columns describe the first view and `views` the
others, as many as there are. The order of the rows is part of the manifest's meaning (the sample plan counts rows), so
it is part of its digest; where bytes lie is not: paths below the manifest's folder are stored relative to it, and no
path or offset enters the digest, only the digest of the bytes that they lead to.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip, Pictures, Split, check_clip
from cosmos_data.manifests.rows import (
    OLDEST_VERSION,
    SCHEMA,
    SCHEMAS,
    SINCE_VERSION_3,
    from_row,
    plain_values,
    read_rows,
    to_row,
    write_rows,
)
from cosmos_data.manifests.table import ClipTable, write_table
from cosmos_data.whole_file import whole_file

ARROW_MAGIC = b"ARROW1"

LOCATION = ("path", "offset_bytes", "size_bytes")
"""Columns that the digest leaves out: it is of content, not of where that lies."""


class Manifest:
    """Clips in their order, those of one split or all. Validated when made; paths in memory are absolute.

    A file in Arrow's format stays where it is, and a clip is made when it is asked for.
    """

    def __init__(self, clips: Iterable[Clip] = ()) -> None:
        clips = tuple(clips)
        first_row: dict[str, int] = {}
        for row, clip in enumerate(clips):
            check_clip(clip, row)
            if clip.clip_id in first_row:
                raise DataError(
                    f"manifest row {row}, column clip_id: {clip.clip_id!r} stands in row {first_row[clip.clip_id]} too;"
                    " every clip needs a name of its own"
                )
            first_row[clip.clip_id] = row
        self._set(clips, np.arange(len(clips)), None)

    def _set(self, source: tuple[Clip, ...] | ClipTable, numbers: np.ndarray, digest: str | None) -> None:
        """numbers: of the source's rows that are the manifest's. digest: None where it is to be computed."""
        self._source, self._numbers, self._digest = source, numbers, digest

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: int) -> Clip:
        return self._source[int(self._numbers[row])]

    def __iter__(self) -> Iterator[Clip]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.clips == other.clips

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Return all clips, made at once."""
        return self._source if isinstance(self._source, tuple) and len(self) == len(self._source) else tuple(self)

    def column(self, name: str) -> np.ndarray:
        """Return the values [rows] of a column that holds one number a row."""
        return self.arrow_column(name).to_numpy()

    def arrow_column(self, name: str) -> pa.ChunkedArray:
        """Return the values [rows] of a column as the file has it, in which a text is no Python object."""
        if isinstance(self._source, ClipTable):
            column = self._source.column(name)
            return column if len(self) == len(self._source) else column.take(pa.array(self._numbers))
        values = [plain_values(getattr(self._source[number], name)) for number in self._numbers]
        return pa.chunked_array([pa.array(values, SCHEMA.field(name).type)])

    def says(self, name: str) -> bool:
        """Tell whether any row has something in a column of records, or of texts."""
        if not isinstance(self._source, ClipTable):
            return any(getattr(clip, name) for clip in self)
        column = self.arrow_column(name)
        if pa.types.is_string(column.type):
            return pc.any(pc.not_equal(column, "")).as_py() is True  # pyright: ignore[reportAttributeAccessIssue]
        return column.null_count < len(column)

    def captions(self) -> pa.Array:
        """Return every caption of clips and of parts of clips, once, in the order of the alphabet."""
        parts = pc.list_flatten(self.arrow_column("captions"))  # pyright: ignore[reportAttributeAccessIssue]
        texts = [*self.arrow_column("caption").chunks, *(chunk.field("text") for chunk in parts.chunks)]
        return pa.chunked_array(texts, pa.string()).cast(pa.large_string()).unique().sort()  # may be beyond 2 GiB

    @property
    def digest(self) -> str:
        """Return the sha256 of every row's content but its paths and offsets, in row order: the same wherever the
        folder lies, in whatever file; another one as soon as a frame, a caption, a split or the order changes. It is
        computed by whoever writes the file. What came after version 2 counts where it differs from what that version
        took for granted, so digests of older manifests stay as they were."""
        if self._digest is None:
            self._digest = _digest_of(self)
        return self._digest

    def select(self, split: Split) -> "Manifest":
        """Return the manifest of one split, rows in their order."""
        if split not in get_args(Split):
            raise DataError(f"split {split!r} is unknown; use one of {', '.join(get_args(Split))}")
        known = None
        if isinstance(self._source, ClipTable) and len(self) == len(self._source):
            known = self._source.digests[split]
        is_of_split = pc.equal(self.arrow_column("split"), split).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        return self._part(self._numbers[is_of_split], known)

    def rows(self, rows: np.ndarray) -> "Manifest":
        """Return the manifest of the rows of these numbers, in that order, each once at most."""
        return self._part(self._numbers[rows], None)

    def _part(self, numbers: np.ndarray, digest: str | None) -> "Manifest":
        part = Manifest.__new__(Manifest)
        part._set(self._source, numbers, digest)
        return part

    def write(self, path: str | Path) -> None:
        """Write an Arrow file, or Parquet where the name ends in .parquet. It is written aside, then renamed: the file
        is complete or absent."""
        path = Path(path).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (_stored_row(clip, path.parent) for clip in self)
        with whole_file(path) as aside:
            if path.suffix == ".parquet":
                write_rows(list(rows), aside)
            else:
                write_table(aside, rows, {"": self.digest} | {s: self.select(s).digest for s in get_args(Split)})

    @classmethod
    def read(cls, path: str | Path, *, verify: bool = True) -> "Manifest":
        """Read an Arrow file, or, row by row, Parquet or JSON lines (.jsonl) with the same columns.

        verify: whether an Arrow file is compared with its SHA-256, which reads all of it: one process of a job does.

        Raises:
            DataError: it is missing, no manifest, of a newer version, changed, or a row is wrong.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise DataError(f"no manifest at {path}; build one from a folder of videos, or correct data.manifest")
        with path.open("rb") as file:
            is_table = file.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        if not is_table:
            return cls(from_row(values, row, path.parent) for row, values in enumerate(read_rows(path)))
        table = ClipTable(path, verify=verify)
        manifest = cls.__new__(cls)
        manifest._set(table, np.arange(len(table)), table.digests[""])
        return manifest


def _digest_of(clips: Iterable[Clip]) -> str:
    sha256 = hashlib.sha256(json.dumps([OLDEST_VERSION, SCHEMAS[OLDEST_VERSION].names]).encode())
    plain = {field.name: field.default for field in fields(Pictures) if field.name in SINCE_VERSION_3}
    for clip in clips:
        row = to_row(clip)
        for pictures in (row, *row["views"]):
            for name in LOCATION:
                del pictures[name]
            for name, default in plain.items():
                if pictures[name] == default:
                    del pictures[name]
        del row["labels_file"]
        if row["state"] is None:
            del row["state"]
        for signal in (row["action"], row.get("state")):
            if signal is not None and signal["embodiment"] == "":
                del signal["embodiment"]
        sha256.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return sha256.hexdigest()


def _stored_row(clip: Clip, folder: Path) -> dict[str, Any]:
    """Paths below the manifest's folder are relative to it."""
    row = to_row(clip)
    for pictures in (row, *row["views"]):
        pictures["path"] = _stored_path(pictures["path"], folder)
    if row["labels_file"] is not None:
        row["labels_file"]["path"] = _stored_path(row["labels_file"]["path"], folder)
    return row


def _stored_path(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path
