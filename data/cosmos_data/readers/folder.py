"""This module lists what lies in and below a folder: files by name, links followed, nothing twice.

Folders are walked before links to folders, so that a video that can be reached in two ways has the name of its own
place; what a link leads to a second time is left out, which also ends loops.
"""

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from cosmos_data.contents import UNFINISHED_SUFFIXES, VIDEO_SUFFIXES, Content, look_at
from cosmos_data.errors import DataError
from cosmos_data.readers.file_group import TEXT_SUFFIXES
from cosmos_data.readers.found import BadVideo, LeftOut, printable

DATA_SETS = ("meta/info.json", ".nv-meta/.info.json", ".nv-meta/.info.yaml")
"""Files that show a folder to be a LeRobot or an energon data set."""


@dataclass(frozen=True, slots=True)
class Folder:
    """By the path from the folder, with slashes."""

    files: dict[str, Path] = field(default_factory=dict)
    data_sets: dict[str, Path] = field(default_factory=dict)
    """Folders that are data sets of their own; their files are not listed."""

    others: list[BadVideo | LeftOut] = field(default_factory=list)


def walk(root: Path) -> Folder:
    """List all folders below `root`. Raises DataError where it is no folder."""
    if not root.is_dir():
        raise DataError(f"{printable(str(root))} is not a folder; give the folder that holds the videos")
    found = Folder()
    seen = {_identity(root)}
    folders, links = deque([("", root)]), deque[tuple[str, Path]]()
    while folders or links:
        if not folders:
            _follow(*links.popleft(), found, seen, folders)
            continue
        prefix, folder = folders.popleft()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            found.others.append(BadVideo(printable(str(folder)), f"it can not be read ({error.strerror})"))
            continue
        for entry in entries:
            name, path = prefix + entry.name, Path(entry.path)
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                found.others.append(LeftOut(printable(str(path)), "hidden, or written by the system for itself"))
            elif entry.is_symlink():
                links.append((name, path))
            else:
                _enter(name, path, found, seen, folders)
    return found


def find_videos(root: Path) -> list[Path]:
    """Return videos in and below `root`, in the order of their relative paths. Raises DataError where there are
    none."""
    files = walk(root).files
    paths = [files[name] for name in sorted(files) if is_video(files[name])]
    if not paths:
        raise DataError(f"{printable(str(root))} holds no video, in none of {len(files)} files; give another folder")
    return paths


def is_video(path: Path) -> bool:
    """Tell whether a file is a video by its content, or a bad one by its name."""
    if not path.is_file():
        return False
    sort = sort_of(path)
    if isinstance(sort, BadVideo):
        return path.suffix.lower() in VIDEO_SUFFIXES
    return isinstance(sort, Content) and sort.kind == "video"


def sort_of(path: Path) -> Content | LeftOut | BadVideo:
    """Decide about a file: give its content where that is a video or a tar, else what is said instead."""
    try:
        content = _content(path)
    except OSError as error:
        return BadVideo(printable(str(path)), f"it can not be read ({error.strerror})")
    suffix, where = path.suffix.lower(), printable(str(path))
    if suffix in UNFINISHED_SUFFIXES:
        return LeftOut(where, "an unfinished download, by its name")
    if content.kind == "video" or (content.kind == "tar" and suffix not in VIDEO_SUFFIXES):
        return content
    if suffix == ".tar":
        return BadVideo(where, f"its name ends in .tar, and it is {content.what}")
    is_script = suffix in (".ts", ".mts") and content.kind == "text"
    if suffix in VIDEO_SUFFIXES and not is_script:
        if content.kind == "unknown":  # a damaged video, perhaps; decoding it tells
            return Content("video", content.what)
        return BadVideo(where, f"its name ends in {path.suffix}, and it is {content.what}")
    return LeftOut(where, f"it is {content.what}")


def _content(path: Path) -> Content:
    return Content("text", "a text") if path.suffix.lower() in TEXT_SUFFIXES else look_at(path)


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _enter(name: str, path: Path, found: Folder, seen: set[tuple[int, int]], folders: deque[tuple[str, Path]]) -> None:
    """Put a path where it belongs, the first time that it is met.

    Texts may be met again: a cache that keeps equal files once links the captions of several videos to one file.
    """
    try:
        identity = _identity(path)
    except OSError as error:
        found.others.append(BadVideo(printable(str(path)), f"it can not be read ({error.strerror})"))
        return
    if identity in seen and path.suffix.lower() not in TEXT_SUFFIXES:
        found.others.append(LeftOut(printable(str(path)), "it leads to what is read already"))
        return
    seen.add(identity)
    if path.is_file():
        found.files[name] = path
    elif not path.is_dir():
        found.others.append(LeftOut(printable(str(path)), "it is no file and no folder"))
    elif any(os.path.isfile(path / mark) for mark in DATA_SETS):  # noqa: PTH113 (false where it may not be looked at)
        found.data_sets[name] = path
    else:
        folders.append((name + "/", path))


def _follow(name: str, path: Path, found: Folder, seen: set[tuple[int, int]], folders: deque[tuple[str, Path]]) -> None:
    """Enter what a link leads to; nothing may be there, or it may lead to itself."""
    if path.exists():
        _enter(name, path, found, seen, folders)
        return
    reason = f"it is a link to {printable(str(path.readlink()))}, where nothing is"
    kind = BadVideo if path.suffix.lower() in VIDEO_SUFFIXES else LeftOut
    found.others.append(kind(printable(str(path)), reason))
