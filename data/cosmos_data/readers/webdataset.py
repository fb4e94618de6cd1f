"""WebDataset tars: KEY.mp4 with KEY.txt (or KEY.mp4.txt, KEY.caption) and KEY.json; KEY.front.mp4 is the view `front`.

WebDataset takes the name up to its first dot for the key. People pack videos whose own names have dots, such as
`2024.01.05.mp4` and `clip 2.0 (clean).mp4`: what follows the first dot is a view here only where it can be its name.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cosmos_data.contents import VIDEO_SUFFIXES, look_at
from cosmos_data.errors import DataError
from cosmos_data.readers.file_group import CAPTION_SUFFIXES, FileGroup, Named, read_group, stem_and_suffix
from cosmos_data.readers.found import BadVideo, Found, LeftOut, printable
from cosmos_data.readers.tarshard import Member, grouped, read_members

VIEW = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


def read_tar(path: Path, name: str) -> Iterator[Found]:
    """Yield the samples of a shard, read in place. A shard with a refused member, or cut off, gives nothing.

    name: begins the names of its samples.
    """
    where = printable(str(path))
    try:
        members = list(read_members(path))
    except DataError as error:
        yield BadVideo(where, str(error).removeprefix(f"{path}: "))
        return
    if not members:
        yield LeftOut(where, "an empty tar")
    plain = [member for member in members if not is_system_file(member.name)]
    for _ in range(len(members) - len(plain)):
        yield LeftOut(where, "hidden, or written by the system for itself")
    for key, group in grouped(plain, lambda member: parts_of(member.name)[0]).items():
        yield from _read_key(group, f"{name}/{key}", f"{where}/{printable(key)}")


def parts_of(name: str) -> tuple[str, str, str]:
    """Return (key, view, suffix) of a member's name."""
    path = PurePosixPath(name)
    stem, suffix = stem_and_suffix(path.name)
    key, _, view = stem.partition(".")
    if not VIEW.fullmatch(view):
        key, view = stem, ""
    return (path.parent / key).as_posix(), view, suffix


def is_system_file(name: str) -> bool:
    """Tell whether a member is hidden, or what macOS writes beside it."""
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _read_key(members: list[Member], name: str, where: str) -> Iterator[Found]:
    group, others = FileGroup(name=name, where=where, folder=None), list[str]()
    for member in members:
        _, view, suffix = parts_of(member.name)
        named = Named(name=member.name, file=member.file)
        if suffix in CAPTION_SUFFIXES:
            group.captions[view].append(named)
        elif suffix == ".json" and not view:
            group.descriptions.append(named)
        elif suffix in VIDEO_SUFFIXES or look_at(member.file).kind == "video":
            group.videos[view].append(named)
        else:
            others.append(suffix or "no suffix")
    if not group.videos:
        yield LeftOut(where, "a sample without a video")
        return
    yield from (LeftOut(where, f"what is no video, beside one ({suffix})") for suffix in others)
    yield from read_group(group)
