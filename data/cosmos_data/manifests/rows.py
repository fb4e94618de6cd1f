"""Rows of a manifest as files hold them: Parquet, or the same columns as JSON lines; and what they must be.

In JSON lines a column that has a default (see `Clip`) may be left out.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Clip, Pictures
from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, EgoTrajectory

SCHEMA_VERSION = 5
OLDEST_VERSION = 2
"""That is still read: what its columns lack has the defaults of `Clip`, which is how it was read then."""
VERSION_KEY = b"cosmos_data.schema_version"

NUMBERS = pa.list_(pa.float64())
CAMERA = pa.struct(
    [
        pa.field("convention", pa.string(), nullable=False),
        pa.field("intrinsics_px", NUMBERS, nullable=False),
        pa.field("height_px", pa.int64(), nullable=False),
        pa.field("width_px", pa.int64(), nullable=False),
        pa.field("extrinsics", NUMBERS, nullable=False),
    ]
)
# Columns that say where one view's pictures are and how they are found.
PICTURES = [
    pa.field("path", pa.string(), nullable=False),
    pa.field("offset_bytes", pa.int64(), nullable=True),
    pa.field("size_bytes", pa.int64(), nullable=True),
    pa.field("start_frame", pa.int64(), nullable=False),
    pa.field("height_px", pa.int64(), nullable=False),
    pa.field("width_px", pa.int64(), nullable=False),
    pa.field("rotation_deg", pa.int64(), nullable=False),
    pa.field("is_mirrored", pa.bool_(), nullable=False),
    pa.field("stream_index", pa.int64(), nullable=True),
    pa.field("pixel_aspect", pa.string(), nullable=False),
    pa.field("is_squared", pa.bool_(), nullable=False),
    pa.field("codec", pa.string(), nullable=False),
    pa.field("pixel_format", pa.string(), nullable=False),
    pa.field("color_matrix", pa.string(), nullable=False),
    *(pa.field(name, pa.string(), nullable=False) for name in ("transfer", "primaries", "color_range", "field_order")),
    *(pa.field(name, pa.bool_(), nullable=False) for name in ("has_alpha", "is_tone_mapped", "is_deinterlaced")),
    pa.field("background", pa.string(), nullable=False),
    pa.field("seek", pa.string(), nullable=False),
    pa.field("first_pts", pa.int64(), nullable=True),
    pa.field("digest", pa.string(), nullable=False),
    pa.field("caption", pa.string(), nullable=False),
    pa.field("view", pa.string(), nullable=False),
    pa.field("camera", CAMERA, nullable=True),
]
SINCE_VERSION_3 = ("is_mirrored", "stream_index", "pixel_aspect", "transfer", "primaries", "color_range", "field_order")
SINCE_VERSION_3 += ("is_squared", "has_alpha", "is_tone_mapped", "is_deinterlaced", "background")


ACTION = [
    pa.field("names", pa.list_(pa.string()), nullable=False),
    pa.field("units", pa.list_(pa.string()), nullable=False),
    pa.field("rate_hz", pa.float64(), nullable=False),
    pa.field("frame_of_reference", pa.string(), nullable=False),
    pa.field("values", NUMBERS, nullable=False),
    pa.field("embodiment", pa.string(), nullable=False),
]
CAPTION = [
    pa.field("start_frame", pa.int64(), nullable=False),
    pa.field("num_frames", pa.int64(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
]
EGO_TRAJECTORY = [
    pa.field("rate_hz", pa.float64(), nullable=False),
    pa.field("frame_of_reference", pa.string(), nullable=False),
    pa.field("positions_m", NUMBERS, nullable=False),
    pa.field("rotations", NUMBERS, nullable=False),
]
SINCE_VERSION_4 = ("state", "embodiment")
"""A column, and an entry of actions."""
LABELS_FILE = pa.struct(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset_bytes", pa.int64(), nullable=True),
        pa.field("size_bytes", pa.int64(), nullable=True),
    ]
)
SINCE_VERSION_5 = ("labels_file",)


def _schema(version: int) -> pa.Schema:
    lacks = (*(SINCE_VERSION_3 if version < 3 else ()), *(SINCE_VERSION_4 if version < 4 else ()))
    lacks += SINCE_VERSION_5 if version < 5 else ()
    pictures = [field for field in PICTURES if field.name not in lacks]
    action = pa.struct([field for field in ACTION if field.name not in lacks])
    columns = [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("duration_sec", pa.float64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        *pictures,
        pa.field("captions", pa.list_(pa.struct(CAPTION)), nullable=False),
        pa.field("views", pa.list_(pa.struct(pictures)), nullable=False),
        pa.field("action", action, nullable=True),
        pa.field("ego_trajectory", pa.struct(EGO_TRAJECTORY), nullable=True),
        pa.field("state", action, nullable=True),
        pa.field("labels_file", LABELS_FILE, nullable=True),
    ]
    return pa.schema([column for column in columns if column.name not in lacks])


SCHEMAS = {version: _schema(version) for version in range(OLDEST_VERSION, SCHEMA_VERSION + 1)}
SCHEMA = SCHEMAS[SCHEMA_VERSION]
CONDITIONS = {"camera": Camera, "action": Action, "ego_trajectory": EgoTrajectory, "state": Action}
"""Columns of a clip's conditions, with what each of them is read as."""
RECORDS = {**CONDITIONS, "labels_file": VideoFile}
"""Columns that hold one record, and what it becomes."""


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write Parquet, with the version of the schema."""
    schema = SCHEMA.with_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Return plain values, row by row, of the types of SCHEMA. Raises DataError where the file is something else."""
    return _jsonl_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)


def to_row(clip: Clip) -> dict[str, Any]:
    """Return a clip's plain values: what a row of Parquet holds, or a JSON line."""
    return {name: plain_values(getattr(clip, name)) for name in SCHEMA.names}


def from_row(values: Mapping[str, Any], row: int, folder: Path) -> Clip:
    """Return the clip of a row; relative paths are taken to begin at `folder`. Raises DataError where a needed value is
    missing."""
    _demand_values(values, row, "")
    nested = {
        "captions": tuple(record(CaptionWindow, one, row, "captions.") for one in values.get("captions", ())),
        "views": tuple(_pictures(Pictures, one, row, "views.", folder) for one in values.get("views", ())),
    }
    clip: Clip = _pictures(Clip, {**values, **nested}, row, "", folder)
    if clip.labels_file is None:
        return clip
    return replace(clip, labels_file=replace(clip.labels_file, path=str(folder / clip.labels_file.path)))


def _pictures(cls: type, values: Mapping[str, Any], row: int, where: str, folder: Path) -> Any:
    _demand_values(values, row, where)
    records = {
        name: None if values[name] is None else record(kind, values[name], row, f"{where}{name}.")
        for name, kind in RECORDS.items()
        if name in values
    }
    made = record(cls, {**values, **records}, row, where)
    return replace(made, path=str(folder / made.path))  # joining an absolute path leaves it as it is


def record(cls: type, values: Mapping[str, Any], row: int, where: str) -> Any:
    """Return the dataclass of a mapping; lists become tuples. Raises DataError where a value is missing or empty."""
    _demand_values(values, row, where)
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except TypeError as error:  # a column that has no default is missing
        missing = str(error).partition("missing ")[2]
        raise DataError(f"manifest row {row}: {where or 'it is '}missing {missing}; give it, or build again") from error


def _demand_values(values: Mapping[str, Any] | None, row: int, where: str) -> None:
    if values is None:
        raise DataError(f"manifest row {row}, column {where.rstrip('.')}: one of its entries is empty; remove it")
    for name, value in values.items():
        if value is None and name not in OPTIONAL:
            raise DataError(f"manifest row {row}, column {where}{name}: empty; the column needs a value")


def plain_values(value: Any) -> Any:
    """Return a value of a clip as a row holds it: records become mappings, and tuples of records lists of them.
    `record` goes back."""
    if is_dataclass(value):
        return {field.name: plain_values(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [plain_values(one) for one in value]
    return value


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        table = pq.read_table(path)
        check_schema(table.schema, path)
        yield from table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a Parquet file ({error}); build the manifest again") from error


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    return (values for _, values in read_json_lines(path, pa.struct(list(SCHEMA))))


def read_json_lines(path: Path, columns: pa.StructType) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, its values); empty lines are passed over. DataError names the first wrong line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, typed_json(line, columns)
                except DataError as error:
                    raise DataError(f"{path}, line {number}: {error}; correct the line") from error


def typed_json(text: bytes, columns: pa.StructType) -> dict[str, Any]:
    """Return a JSON object whose keys and types are those of `columns`; any key may be left out. Raises DataError
    otherwise."""
    values = json_object(text)
    if unknown := sorted(unknown_keys(values, columns)):
        raise DataError(f"unknown columns {', '.join(unknown)}")
    return typed(values, columns)


def json_object(text: bytes) -> dict[str, Any]:
    """Parse an object of UTF-8 text, with or without a byte order mark. Raises DataError where it is none, or says a
    key twice."""
    try:
        values = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{text[:40]!r} ... is no JSON object ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{text[:40]!r} is no JSON object")
    return values


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise DataError(f"key {twice!r} is said {names.count(twice)} times; keep one")
    return values


def typed(values: Mapping[str, Any], columns: pa.StructType) -> dict[str, Any]:
    """Return JSON's values as those of `columns`, without keys that `columns` lacks. DataError names the first wrong
    value."""
    for fault in type_faults(values, columns, ""):
        raise DataError(fault)
    [whole] = pa.array([values], columns).to_pylist()
    return _given(whole, {name: value for name, value in values.items() if name in whole})


def type_faults(value: Any, of_type: pa.DataType, where: str) -> Iterator[str]:
    """Yield what is wrong with a value of that type; nothing may be said anywhere, but in a list."""
    if value is None:
        return
    shown = f"{where.lstrip('.') or 'row'}={str(value)[:40]!r}"
    if pa.types.is_struct(of_type):
        if not isinstance(value, dict):
            yield f"{shown} is no object"
            return
        for field in of_type:
            yield from type_faults(value.get(field.name), field.type, f"{where}.{field.name}")
    elif pa.types.is_list(of_type):
        if not isinstance(value, list):
            yield f"{shown} is no list"
            return
        if pa.types.is_floating(of_type.value_type) and all(type(one) is float for one in value):
            return  # the long ones
        for number, one in enumerate(value):
            if one is None:
                yield f"{where.lstrip('.')}[{number}]: one of its entries is empty; remove it"
            yield from type_faults(one, of_type.value_type, f"{where}[{number}]")
    elif pa.types.is_string(of_type):
        if not isinstance(value, str):
            yield f"{shown} is no text"
        elif not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            yield f"{where.lstrip('.')}={value[:40]!r} is no Unicode text"
    elif pa.types.is_boolean(of_type):
        if not isinstance(value, bool):
            yield f"{shown} is neither true nor false"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{shown} is no number"
    elif pa.types.is_integer(of_type):
        if value != value or value in (float("inf"), -float("inf")) or value != int(value) or abs(value) >= 2**63:
            yield f"{shown} is no whole number"
    elif abs(value) > sys.float_info.max and isinstance(value, int):
        yield f"{shown} is too large"


def unknown_keys(values: Any, of_type: pa.DataType, where: str = "") -> Iterator[str]:
    """Yield keys that the type does not have; pyarrow passes over them in silence."""
    if pa.types.is_list(of_type) and isinstance(values, list):
        for one in values:
            yield from unknown_keys(one, of_type.value_type, where)
    elif pa.types.is_struct(of_type) and isinstance(values, dict):
        known = {field.name: field.type for field in of_type}
        for name, value in values.items():
            if name not in known:
                yield where + name
            else:
                yield from unknown_keys(value, known[name], f"{where}{name}.")
    elif pa.types.is_struct(of_type) and values is not None:
        yield f"{where.rstrip('.') or 'row'}={values!r}"


def _given(typed: Any, values: Any) -> Any:
    """Return a line without what only the type has: columns that the line left out."""
    if isinstance(typed, dict):
        return {name: _given(value, values[name]) for name, value in typed.items() if name in values}
    if isinstance(typed, list):
        return [_given(*pair) for pair in zip(typed, values, strict=True)]
    return typed


def check_schema(schema: pa.Schema, path: Path) -> None:
    """Raise DataError where a file's columns are not those of a manifest that is read here."""
    stored = (schema.metadata or {}).get(VERSION_KEY, b"")
    if not stored.isdigit():
        raise DataError(f"{path} is a table, but not a manifest of cosmos-train; build the manifest again")
    if int(stored) < OLDEST_VERSION:
        raise DataError(
            f"{path} has manifest version {int(stored)}, which an earlier cosmos-train wrote, and this is version"
            f" {SCHEMA_VERSION}; build the manifest again (cosmos-train data build)"
        )
    if int(stored) > SCHEMA_VERSION:
        raise DataError(
            f"{path} has manifest version {int(stored)}, and this cosmos-train reads up to {SCHEMA_VERSION};"
            " install a newer cosmos-train, or build the manifest again with this one"
        )
    expected = SCHEMAS[int(stored)]
    for field in expected:
        column = schema.get_field_index(field.name)
        if column < 0:
            raise DataError(f"{path} has no column {field.name}; build the manifest again")
        found = schema.field(column).type
        if found != field.type:
            raise DataError(f"{path}, column {field.name}: type {found} instead of {field.type}; build it again")
    unknown = set(schema.names) - set(expected.names)
    if unknown:
        raise DataError(f"{path} has unknown columns {', '.join(sorted(unknown))}; remove them")


OPTIONAL = {field.name for field in (*SCHEMA, *PICTURES) if field.nullable}

assert {field.name for field in fields(Clip)} == set(SCHEMA.names), "Clip and SCHEMA list the same columns"
assert {field.name for field in fields(Pictures)} == {field.name for field in PICTURES}
