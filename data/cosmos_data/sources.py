"""What a manifest is made of, before any video is opened: videos with what is said about them.

Three layouts; LeRobot's is in `cosmos_data.lerobot`, energon's in `cosmos_data.energon`.

    a folder of videos     NAME.mp4, with NAME.txt (the caption) and NAME.json (see LISTING) beside it where they exist
    JSON lines             one video a line: {"path": ..., "caption": ..., "views": [...], "action": {...}, ...}
    WebDataset tars        KEY.mp4 with KEY.txt and KEY.json; KEY.front.mp4 is the view `front` of KEY

Captions, cameras, actions and trajectories are of the whole video; the build cuts them with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosmos_data.clip import Split
from cosmos_data.conditions import Action, Camera, CaptionWindow, EgoTrajectory
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.rows import CAMERA, SCHEMA, read_json_lines, record, typed_json
from cosmos_data.tarshard import Member, grouped, read_members

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")

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
        *(SCHEMA.field(name) for name in ("captions", "action", "ego_trajectory")),
    ]
)
"""What JSON may say of a video, in the words of the manifest's columns; the rest is found by decoding it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceView:
    """One file of a source."""

    file: VideoFile
    view: str = ""
    start_frame: int = 0
    caption: str = ""
    camera: Camera | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A video, or several of the same moments, and what is known of it."""

    name: str
    """Begins the names of its clips."""

    views: tuple[SourceView, ...]
    num_frames: int | None = None
    """From each view's start_frame on; None: to the end of the file."""

    split: Split | None = None
    captions: tuple[CaptionWindow, ...] = ()
    action: Action | None = None
    ego_trajectory: EgoTrajectory | None = None


@dataclass(frozen=True, slots=True)
class BadVideo:
    """A video that gave no clip, and why."""

    path: str
    reason: str


def find_videos(folder: Path) -> list[Path]:
    """Videos in and below `folder`, in the order of their relative paths; names that begin with a dot are not."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder that holds the videos")
    found = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    paths = sorted(found, key=lambda path: path.relative_to(folder).as_posix())
    if not paths:
        raise DataError(f"{folder} holds no video; expected files that end in {', '.join(VIDEO_SUFFIXES)}")
    return paths


def read_folder(folder: Path) -> Iterator[Source | BadVideo]:
    """A folder of videos and what lies beside them."""
    for path in find_videos(folder):
        beside = {suffix: path.with_suffix(suffix) for suffix in (".txt", ".json")}
        try:
            contents = {suffix: file.read_bytes() for suffix, file in beside.items() if file.is_file()}
            yield _source(path.relative_to(folder).as_posix(), {"": VideoFile(str(path))}, contents, path.parent)
        except DataError as error:
            yield BadVideo(str(path), str(error))


def read_listing(path: Path) -> Iterator[Source]:
    """JSON lines; relative paths begin at the folder of the file. DataError names the first wrong line."""
    for number, values in read_json_lines(path, LISTING):
        if not values.get("path"):
            raise DataError(f"{path}, line {number}: no path; name the video")
        name = values.get("clip_id") or values["path"]
        yield source_of(name, {"": VideoFile(str(path.parent / values["path"]))}, values, path.parent, number)


def read_tars(paths: list[Path]) -> Iterator[Source | BadVideo]:
    """WebDataset shards, read in place. A shard with a refused member, or cut off, gives nothing."""
    for path in paths:
        try:
            groups = list(grouped(read_members(path)))
        except DataError as error:
            yield BadVideo(str(path), str(error).removeprefix(f"{path}: "))
            continue
        for key, members in groups:
            videos = {suffix: member for suffix, member in members.items() if suffix.endswith(VIDEO_SUFFIXES)}
            if videos:
                yield _member_source(path, key, videos, members)


def _member_source(
    path: Path, key: str, videos: Mapping[str, Member], members: Mapping[str, Member]
) -> Source | BadVideo:
    name = f"{path.stem}/{key}"
    beside = {suffix: members[suffix].file.read_bytes() for suffix in (".txt", ".json") if suffix in members}
    files = {suffix.rpartition(".")[0].removeprefix("."): member.file for suffix, member in videos.items()}
    try:
        return _source(name, files, beside, None)
    except DataError as error:
        return BadVideo(f"{path}/{key}", str(error))


def _source(name: str, files: Mapping[str, VideoFile], beside: Mapping[str, bytes], folder: Path | None) -> Source:
    """beside: contents of the caption (.txt) and of the JSON (.json). folder: where paths in the JSON begin; None: it
    can not name files."""
    values = typed_json(beside[".json"], LISTING) if ".json" in beside else {}
    if folder is None and any("path" in one for one in (values, *values.get("views", ()))):
        raise DataError("its JSON names a path, and only files of the shard itself can be read")
    try:
        caption = beside.get(".txt", b"").decode("utf-8-sig").strip()  # Windows begins a text with a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"its caption (.txt) is not UTF-8 text ({error.reason})") from error
    return source_of(name, files, ({"caption": caption} if caption else {}) | values, folder, 0)


def source_of(
    name: str, files: Mapping[str, VideoFile], values: Mapping[str, Any], folder: Path | None, row: int
) -> Source:
    """Of a row of LISTING and the files by view; further views may be named in the row itself."""
    first, *more = sorted(files)
    own = {key: values[key] for key in ("view", "start_frame", "caption", "camera") if values.get(key) is not None}
    views = [_view({"view": first} | own, files[first], row)]
    others = values.get("views") or ()
    described = {other.get("view"): other for other in others if "path" not in other}
    views += [_view({"view": view} | described.pop(view, {}), files[view], row) for view in more]
    if described:
        raise DataError(f"row {row}: no video of view {next(iter(described))!r}; name its path")
    for other in others:
        if folder is None or not other.get("path"):
            continue
        rest = {key: value for key, value in other.items() if key != "path"}
        views.append(_view(rest, VideoFile(str(folder / other["path"])), row))
    given = {
        key: record(kind, values[key], row, f"{key}.")
        for key, kind in (("action", Action), ("ego_trajectory", EgoTrajectory))
        if values.get(key) is not None
    }
    return Source(
        name=name,
        views=tuple(views),
        num_frames=values.get("num_frames"),
        split=values.get("split"),
        captions=tuple(record(CaptionWindow, one, row, "captions.") for one in values.get("captions") or ()),
        **given,
    )


def _view(values: dict[str, Any], file: VideoFile, row: int) -> SourceView:
    if values.get("camera") is not None:
        values = values | {"camera": record(Camera, values["camera"], row, "camera.")}
    return SourceView(file=file, **values)
