"""JSON may say this of a video; here it is read, and becomes a `FoundVideo` with its files."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, EgoTrajectory
from cosmos_data.manifests.rows import CAMERA, SCHEMA, json_object, record, typed, unknown_keys
from cosmos_data.readers.found import FoundVideo, FoundView

_VIEW = [
    pa.field("path", pa.string()),
    pa.field("view", pa.string()),
    pa.field("start_frame", pa.int64()),
    pa.field("caption", pa.string()),
    pa.field("camera", CAMERA),
]
LISTING = pa.struct(
    [
        pa.field("clip_id", pa.string()),
        pa.field("num_frames", pa.int64()),
        pa.field("split", pa.string()),
        *_VIEW,
        pa.field("views", pa.list_(pa.struct(_VIEW))),
        *(SCHEMA.field(name) for name in ("captions", "action", "state", "ego_trajectory", "labels_file")),
    ]
)
"""The words of the manifest's columns; the rest is found by decoding the video."""

ALIKE = 0.81
"""From which likeness on (difflib's ratio) a key is a word that was misspelled; stats and stage are not `state`."""


def described(text: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return (what JSON says in the words of LISTING, its other keys, which programs that fetch videos write).

    Raises:
        DataError: it is no such object, or another key looks like a word of LISTING that was misspelled.
    """
    values = json_object(text)
    known = [field.name for field in LISTING]
    foreign = [key for key in values if key not in known]
    for key in foreign:
        if meant := difflib.get_close_matches(key, known, 1, ALIKE):
            raise DataError(f"unknown key {key!r}; {meant[0]!r} may be meant")
    own = {key: value for key, value in values.items() if key in known}
    if unknown := sorted(unknown_keys(own, LISTING)):
        raise DataError(f"unknown keys {', '.join(unknown)}")
    return _without_nulls(typed(own, LISTING)), foreign


def video_of(
    name: str, files: Mapping[str, VideoFile], values: Mapping[str, Any], folder: Path | None, row: int
) -> FoundVideo:
    """Make a video of a row of LISTING and the files by view; the row itself may name further views.

    folder: where paths in the row begin; None: it can not name files.
    """
    first, *more = sorted(files)
    own = {key: values[key] for key in ("view", "start_frame", "caption", "camera") if key in values}
    views = [_view({"view": first} | own, files[first], row)]
    others = values.get("views", ())
    named = {other.get("view"): other for other in others if "path" not in other}
    views += [_view({"view": view} | named.pop(view, {}), files[view], row) for view in more]
    if named:
        raise DataError(f"no video of view {next(iter(named))!r}; name its path")
    for other in others:
        if folder is None or "path" not in other:
            continue
        rest = {key: value for key, value in other.items() if key != "path"}
        views.append(_view(rest, file_of(other["path"], folder), row))
    given = {
        key: record(kind, values[key], row, f"{key}.")
        for key, kind in (("action", Action), ("state", Action), ("ego_trajectory", EgoTrajectory))
        if key in values
    }
    if folder is not None and "labels_file" in values:
        labels = record(VideoFile, values["labels_file"], row, "labels_file.")
        given["labels_file"] = file_of(labels.path, folder)
    return FoundVideo(
        name=name,
        views=tuple(views),
        num_frames=values.get("num_frames"),
        split=values.get("split"),
        captions=tuple(record(CaptionWindow, one, row, "captions.") for one in values.get("captions", ())),
        **given,
    )


def file_of(path: str, folder: Path) -> VideoFile:
    """Return the file that a listing names. Raises DataError where the name is not one of this machine's files."""
    if "://" in path:
        raise DataError(f"its path {path!r} is an address; download the video and name the file")
    place = folder / (Path(path).expanduser() if path.startswith("~/") else path)
    if "\\" in path and not place.exists():
        raise DataError(f"its path {path!r} is written as on Windows; write it with slashes")
    return VideoFile(str(place))


def _view(values: dict[str, Any], file: VideoFile, row: int) -> FoundView:
    if "camera" in values:
        values = values | {"camera": record(Camera, values["camera"], row, "camera.")}
    return FoundView(file=file, **values)


def _without_nulls(values: Any) -> Any:
    """Leave nulls out: null says nothing, as a key that is left out does."""
    if isinstance(values, dict):
        return {key: _without_nulls(value) for key, value in values.items() if value is not None}
    return [_without_nulls(value) for value in values] if isinstance(values, list) else values
