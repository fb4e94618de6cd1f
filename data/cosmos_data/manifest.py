"""The manifest: the versioned list of clips that everything else is a function of, for every kind of run.

One row per clip, in Parquet; the fields of `Clip` (cosmos_data.clip) say what each column means. The same rows as JSON
lines are read too. A clip is a run of consecutive frames of one video file, or of several files that show the same
moment: then the row's own columns describe the first view and `views` the others, as many as there are. The order of
the rows is part of the manifest's meaning (the sample plan counts rows), so it is part of its digest; where bytes lie
is not: paths below the manifest's folder are stored relative to it, and no path or offset enters the digest, only
the digest of the bytes that they lead to.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from cosmos_data.clip import Clip, Pictures, Split, check_clip
from cosmos_data.errors import DataError
from cosmos_data.rows import OLDEST_VERSION, SCHEMA_2, SINCE_VERSION_3, from_row, read_rows, to_row, write_rows

LOCATION = ("path", "offset_bytes", "size_bytes")
"""Columns that the digest leaves out: it is of content, not of where that lies."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Clips in their order. Validated when made; paths in memory are absolute."""

    clips: tuple[Clip, ...]

    def __post_init__(self) -> None:
        first_row: dict[str, int] = {}
        for row, clip in enumerate(self.clips):
            check_clip(clip, row)
            if clip.clip_id in first_row:
                raise DataError(
                    f"manifest row {row}, column clip_id: {clip.clip_id!r} stands in row {first_row[clip.clip_id]} too;"
                    " every clip needs a name of its own"
                )
            first_row[clip.clip_id] = row

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> Clip:
        return self.clips[row]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    @property
    def digest(self) -> str:
        """sha256 over every row's content but its paths and offsets, in row order: the same wherever the folder lies,
        however Parquet encodes it; another one as soon as a frame, a caption, a split or the order changes. Columns of
        version 3 count where they differ from what version 2 took for granted, whose digests so stay as they were."""
        sha256 = hashlib.sha256(json.dumps([OLDEST_VERSION, SCHEMA_2.names]).encode())
        plain = {field.name: field.default for field in fields(Pictures) if field.name in SINCE_VERSION_3}
        for clip in self.clips:
            row = to_row(clip)
            for pictures in (row, *row["views"]):
                for name in LOCATION:
                    del pictures[name]
                for name, default in plain.items():
                    if pictures[name] == default:
                        del pictures[name]
            sha256.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return sha256.hexdigest()

    def select(self, split: Split) -> "Manifest":
        """The manifest of one split, rows in their order."""
        if split not in get_args(Split):
            raise DataError(f"split {split!r} is unknown; use one of {', '.join(get_args(Split))}")
        return Manifest(tuple(clip for clip in self.clips if clip.split == split))

    def write(self, path: str | Path) -> None:
        """Written aside, then renamed: the file is complete or absent."""
        path = Path(path).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [to_row(clip) for clip in self.clips]
        for row in rows:
            for pictures in (row, *row["views"]):
                pictures["path"] = _stored_path(pictures["path"], path.parent)
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            write_rows(rows, aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Of a Parquet file, or of JSON lines (.jsonl) with the same columns.

        Raises:
            DataError: it is missing, no manifest, of a newer version, or a row is wrong.
        """
        path = Path(path).absolute()
        if not path.is_file():
            raise DataError(f"no manifest at {path}; build one from a folder of videos, or correct data.manifest")
        return cls(tuple(from_row(values, row, path.parent) for row, values in enumerate(read_rows(path))))


def _stored_path(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path
