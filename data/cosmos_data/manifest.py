"""The manifest: the versioned list of clips that everything else is a function of.

One row per clip, in Parquet. A clip is a run of consecutive frames of one video file. The order of the rows is part
of the manifest's meaning (the sample plan counts rows), so it is part of its digest; the folder that it lies in is
not: paths below the manifest's folder are stored relative to it, and no path enters the digest, only the digest of
the bytes that the path leads to.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_data.errors import DataError

SCHEMA_VERSION = 1
VERSION_KEY = b"cosmos_data.schema_version"

Split = Literal["train", "heldout"]

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start_frame", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("height_px", pa.int64(), nullable=False),
        pa.field("width_px", pa.int64(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("color_matrix", pa.string(), nullable=False),
        pa.field("first_pts", pa.int64(), nullable=True),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    clip_id: str
    """Stable name, unique in the manifest."""

    path: str
    """Absolute path of the video file (in the Parquet file: relative where the video lies below the manifest)."""

    start_frame: int
    """The clip's first frame, counted from the file's first frame."""

    num_frames: int
    fps: float
    height_px: int
    width_px: int

    codec: str
    """FFmpeg's name of the codec: h264, vp9, mjpeg ..."""

    color_matrix: str
    """bt601 (also where the file does not say), bt709, bt2020 ..."""

    first_pts: int | None
    """Time stamp of the FILE's first frame, or None where frames cannot be found by their time stamps (a variable
    frame rate, missing stamps): then a decoder counts frames from the start of the file."""

    digest: str
    """`clip_digest` of the file's bytes and the clip's place in it."""

    caption: str
    split: Split


def clip_digest(file_sha256: str, *, start_frame: int, num_frames: int) -> str:
    """The identity of a clip's pixels: which bytes, and which frames of them."""
    return hashlib.sha256(f"{file_sha256}/{start_frame}+{num_frames}".encode()).hexdigest()


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
        """sha256 over every row's content but its path, in row order: the same wherever the folder lies, however
        Parquet encodes it; another one as soon as a frame, a caption, a split or the order changes."""
        columns = [name for name in SCHEMA.names if name != "path"]
        sha256 = hashlib.sha256(json.dumps([SCHEMA_VERSION, columns]).encode())
        for values in map(attrgetter(*columns), self.clips):
            sha256.update(json.dumps(values).encode() + b"\n")
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
        columns = {name: list(map(attrgetter(name), self.clips)) for name in SCHEMA.names}
        columns["path"] = [_stored_path(clip_path, path.parent) for clip_path in columns["path"]]
        schema = SCHEMA.with_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode()})
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            pq.write_table(pa.Table.from_pydict(columns, schema=schema), aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        path = Path(path).absolute()
        if not path.is_file():
            raise DataError(f"no manifest at {path}; build one from a folder of videos, or correct data.manifest")
        try:
            table = pq.read_table(path)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is not a Parquet file ({error}); build the manifest again") from error
        _check_schema(table.schema, path)
        clips = []
        for row, values in enumerate(table.to_pylist()):
            for field in SCHEMA:
                if values[field.name] is None and not field.nullable:
                    raise DataError(f"manifest row {row}, column {field.name}: empty; the column needs a value")
            # Joining an absolute path leaves it as it is.
            clips.append(Clip(**(values | {"path": str(path.parent / values["path"])})))
        return cls(tuple(clips))


def check_clip(clip: Clip, row: int) -> None:
    """Raises `DataError` naming row and column for the first value that no video can have."""

    def demand(holds: bool, column: str, rule: str) -> None:
        if not holds:
            value = attrgetter(column)(clip)
            raise DataError(f"manifest row {row}, column {column}: {value!r} is not {rule}; build the manifest again")

    demand(clip.clip_id != "", "clip_id", "a name")
    demand(Path(clip.path).is_absolute(), "path", "an absolute path")
    demand(clip.start_frame >= 0, "start_frame", "a frame number")
    for column, count in (("num_frames", clip.num_frames), ("height_px", clip.height_px), ("width_px", clip.width_px)):
        demand(count >= 1, column, "a positive count")
    demand(math.isfinite(clip.fps) and clip.fps > 0, "fps", "a positive number of frames per second")
    demand(clip.codec != "", "codec", "the name of a codec")
    demand(clip.color_matrix != "", "color_matrix", "the name of a colour matrix")
    demand(re.fullmatch("[0-9a-f]{64}", clip.digest) is not None, "digest", "a sha256 in hexadecimal")
    demand(clip.split in get_args(Split), "split", f"one of {', '.join(get_args(Split))}")


def _check_schema(schema: pa.Schema, path: Path) -> None:
    stored = (schema.metadata or {}).get(VERSION_KEY)
    if stored is None:
        raise DataError(f"{path} is a Parquet file, but not a manifest of cosmos-train; build the manifest again")
    if int(stored) > SCHEMA_VERSION:
        raise DataError(
            f"{path} has manifest version {int(stored)}, and this cosmos-train reads up to {SCHEMA_VERSION};"
            " install a newer cosmos-train, or build the manifest again with this one"
        )
    for field in SCHEMA:
        column = schema.get_field_index(field.name)
        if column < 0:
            raise DataError(f"{path} has no column {field.name}; build the manifest again")
        if schema.field(column).type != field.type:
            raise DataError(
                f"{path}, column {field.name}: type {schema.field(column).type} instead of {field.type};"
                " build the manifest again"
            )
    unknown = set(schema.names) - set(SCHEMA.names)
    if unknown:
        raise DataError(f"{path} has unknown columns {', '.join(sorted(unknown))}; remove them")


def _stored_path(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path


assert tuple(field.name for field in fields(Clip)) == tuple(SCHEMA.names), "Clip and SCHEMA list the same columns"
