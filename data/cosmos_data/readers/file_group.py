"""Files that belong together by their names, in a folder or in a tar: the views of a video, captions, a description."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cosmos_data.contents import VIDEO_SUFFIXES
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.readers.camera_text import camera_of_text
from cosmos_data.readers.captions import caption_of
from cosmos_data.readers.described import described, video_of
from cosmos_data.readers.found import BadVideo, Found, FoundCamera, LeftOut, printable

CAPTION_SUFFIXES = (".txt", ".caption")
"""Of a video's caption, the first one that is there."""

TEXT_SUFFIXES = (*CAPTION_SUFFIXES, ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A file of a group is kept with its name."""

    name: str
    file: VideoFile


@dataclass(frozen=True, kw_only=True, slots=True)
class FileGroup:
    """Holds the files of one video, or of several views of it, by what their names say they are."""

    name: str
    where: str
    """Its place, for people."""

    folder: Path | None
    """Where paths in its description begin; None: it can not name files."""

    videos: dict[str, list[Named]] = field(default_factory=lambda: defaultdict(list))
    captions: dict[str, list[Named]] = field(default_factory=lambda: defaultdict(list))
    """Both by view."""

    descriptions: list[Named] = field(default_factory=list)
    cameras: dict[str, FoundCamera] = field(default_factory=dict)
    """By view, as files of poses say them."""


def stem_and_suffix(name: str) -> tuple[str, str]:
    """Split a name: a.b.MP4 -> (a.b, .mp4), and of a text that has the whole name of a video before its suffix:
    a.mp4.txt -> (a, .txt)."""
    stem, _, last = name.rpartition(".")
    if not stem:
        return name, ""
    suffix = f".{last.lower()}"
    if suffix in TEXT_SUFFIXES:
        shorter, _, inner = stem.rpartition(".")
        if shorter and f".{inner.lower()}" in VIDEO_SUFFIXES:
            return shorter, suffix
    return stem, suffix


def read_group(group: FileGroup) -> Iterator[Found]:
    """Yield its video, or why it is bad; and what is not taken from it."""
    try:
        for view, videos in group.videos.items():
            if len(videos) > 1:
                which = f" of view {view}" if view else ""
                raise DataError(
                    f"{len(videos)} videos{which} have its name: {_names(videos)}; keep one, or rename them"
                )
        values, foreign = {}, list[str]()
        if group.descriptions:
            chosen = _chosen(group.descriptions, (".json",))
            values, foreign = described(chosen.file.read_bytes())
        if group.folder is None and any(
            "path" in one for one in (values, *values.get("views", ()), values.get("labels_file", {}))
        ):
            raise DataError("its JSON names a path, and only files of the shard itself can be read")
        files = {view: videos[0].file for view, videos in group.videos.items()}
        video = video_of(group.name, files, values, group.folder, 0)
        captions = {view: _without_poses(view, named, group.cameras) for view, named in group.captions.items()}
        said = {files[view]: _caption(named) for view, named in captions.items() if view in files and named}
        cameras = {files[view]: camera for view, camera in group.cameras.items() if view in files}
    except DataError as error:
        yield BadVideo(group.where, str(error))
        return
    except OSError as error:
        yield BadVideo(group.where, f"what lies beside it can not be read ({error.strerror})")
        return
    # What JSON says goes before the text.
    views = tuple(
        replace(view, caption=view.caption or said.get(view.file, ""), camera=view.camera or cameras.get(view.file))
        for view in video.views
    )
    yield replace(video, views=views)
    yield from left_out_keys(group.where, foreign)
    for view, camera in group.cameras.items():
        if view not in group.videos:
            yield LeftOut(camera.where, "poses of a view that has no video")
    for view, named in captions.items():
        if not named:
            continue
        used = _chosen(named, CAPTION_SUFFIXES) if view in group.videos else None
        reason = "a second caption" if used else "a text of a view that has no video"
        yield from (LeftOut(printable(one.name), reason) for one in named if one is not used)


def left_out_keys(where: str, foreign: list[str]) -> Iterator[LeftOut]:
    """Yield what is said of keys of JSON that is not ours."""
    if foreign:
        yield LeftOut(where, f"keys of JSON that say nothing here: {', '.join(sorted(foreign))}")


def _caption(named: list[Named]) -> str:
    return caption_of(_chosen(named, CAPTION_SUFFIXES).file.read_bytes())


def _without_poses(view: str, named: list[Named], cameras: dict[str, FoundCamera]) -> list[Named]:
    """Leave out texts that hold poses, which become the view's camera. DataError where it has one already."""
    captions = []
    for one in named:
        camera = camera_of_text(one.file.read_bytes(), printable(one.file.path))
        if camera is None:
            captions.append(one)
        elif view in cameras:
            raise DataError(f"its poses are said twice, by {cameras[view].where} and {camera.where}; keep one")
        else:
            cameras[view] = camera
    return captions


def _chosen(named: list[Named], suffixes: tuple[str, ...]) -> Named:
    """Return the first kind there is, and of that the shortest name. DataError where one name is there twice."""
    best = min(named, key=lambda one: (suffixes.index(stem_and_suffix(one.name)[1]), len(one.name)))
    if sum(one.name == best.name for one in named) > 1:
        raise DataError(f"{printable(best.name)} is there more than once; keep one")
    return best


def _names(named: list[Named]) -> str:
    return ", ".join(printable(one.name) for one in named)
