"""A Megatron-Energon WebDataset folder (as version 7 writes it): tar shards, and what is said of them in `.nv-meta`.

.info.json or .info.yaml      shard_counts: the shards, by their paths from the folder, and how many samples each has
split.yaml or split.json      split_parts: the shards of train, val and test; exclude: shards, or SHARD/KEY of samples
dataset.yaml                  field_map: what a sample's parts become, such as {video: mp4, caption: "json[caption]"}

Names may hold braces: shard_{000..010}.tar are eleven. What is not in the part `train` is held out. Where there is no
field_map (a loader is Python code, which is not run), the video is the sample's, and its caption the .txt.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import yaml

from cosmos_data.contents import VIDEO_SUFFIXES
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Split
from cosmos_data.readers.captions import caption_of
from cosmos_data.readers.described import video_of
from cosmos_data.readers.found import BadVideo, Found, LeftOut, printable
from cosmos_data.readers.tarshard import Member, grouped, name_fault, read_members
from cosmos_data.readers.webdataset import is_system_file

META = ".nv-meta"
INFOS = (".info.json", ".info.yaml")
SPLITS = ("split.yaml", "split.json")
VIDEO_FIELDS, CAPTION_FIELDS = ("video", "image"), ("caption", "text")
"""Names that sample types of energon have for them."""

MOST_NAMES = 10**6
"""Of shards, that one name with braces may stand for."""

FieldMap = Mapping[str, list[list[str]]]
"""Field -> the places where it may be, the first one first: name of the part, then keys into its JSON."""


def is_energon(folder: Path) -> bool:
    """Tell whether a folder has that layout."""
    return any((folder / META / name).is_file() for name in INFOS)


def read_energon(folder: Path, prefix: str = "", splits: Mapping[str, Split] | None = None) -> Iterator[Found]:
    """Yield what is found in an energon folder, shard after shard, those of the part `train` first.

    Args:
        prefix: begins the names of the samples.
        splits: parts that are taken, and what they are here (None: all, and all but `train` are held out).

    Raises:
        DataError: what is said of the shards is wrong, or there is no such part.
    """
    try:
        counts = _described(folder, *INFOS)["shard_counts"]
        said = _described(folder, *SPLITS)
        excluded = set(_expanded(said.get("exclude") or ()))
        parts = {part: _expanded(names) for part, names in _parts(said)}
        fields = _field_map(folder)
        unknown = [name for name in chain.from_iterable(parts.values()) if name not in counts]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder / META} is not what energon writes ({error!r}); prepare the folder again") from error
    if unknown:
        raise DataError(f"{folder / META}: the split names {unknown[0]}, which is no shard; prepare the folder again")
    if absent := [part for part in splits or () if part not in parts]:
        raise DataError(f"{folder / META} has no part {absent[0]!r}; it has {', '.join(parts)}")
    for part, names in parts.items():
        split = ("train" if part == "train" else "heldout") if splits is None else splits.get(part)
        for name in names:
            if fault := name_fault(name):
                raise DataError(f"{folder / META}: shard {name!r} {fault}; prepare the folder again")
            if split is None:
                yield LeftOut(printable(str(folder / name)), f"a shard of the part {part}, which is not asked for")
            elif name in excluded:
                yield LeftOut(printable(str(folder / name)), "a shard that the split excludes")
            else:
                yield from _read_shard(folder / name, name, prefix, split, fields, excluded)


def expand_braces(name: str) -> list[str]:
    """Expand braces as a shell does: a{1..3}b -> a1b, a2b, a3b, and a{x,y} -> ax, ay; a first number's zeros are kept.
    Raises DataError where there would be more than MOST_NAMES."""
    match = re.search(r"\{(?:(\d{1,12})\.\.(\d{1,12})|([^{}]*,[^{}]*))\}", name)
    if match is None:
        return [name]
    first, last, listed = match.groups()
    middles = listed.split(",") if listed is not None else range(int(first), int(last) + 1)
    ends = expand_braces(name[match.end() :])
    if len(middles) * len(ends) > MOST_NAMES:
        raise DataError(f"{name[:80]!r} names more than {MOST_NAMES} shards; list them in smaller parts")
    spelled = middles if isinstance(middles, list) else [f"{number:0{len(first)}d}" for number in middles]
    return [name[: match.start()] + middle + end for middle, end in product(spelled, ends)]


def _expanded(names: Iterable[str]) -> list[str]:
    """Return what all of these names stand for."""
    return list(chain.from_iterable(map(expand_braces, names)))


def _described(folder: Path, *names: str) -> dict[str, Any]:
    """Return the first of these files that is there."""
    for name in names:
        path = folder / META / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    raise DataError(f"{folder / META} has no {names[0]}; prepare the folder again")


def _parts(said: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    return iter(sorted(said["split_parts"].items(), key=lambda part: part[0] != "train"))


def _field_map(folder: Path) -> FieldMap:
    """Return the fields of VIDEO_FIELDS and CAPTION_FIELDS alone; empty where there is none."""
    if not (folder / META / "dataset.yaml").is_file():
        return {}
    fields = _described(folder, "dataset.yaml").get("field_map") or {}
    return {
        field: [re.findall(r"[^\[\]]+", place) for place in str(fields[field]).split(",")]
        for field in (*VIDEO_FIELDS, *CAPTION_FIELDS)
        if field in fields
    }


def _read_shard(
    path: Path, name: str, prefix: str, split: str, fields: FieldMap, excluded: set[str]
) -> Iterator[Found]:
    where = printable(str(path))
    try:
        members = [member for member in read_members(path) if not is_system_file(member.name)]
    except DataError as error:
        yield BadVideo(where, str(error).removeprefix(f"{path}: "))
        return
    for key, group in grouped(members).items():
        if f"{name}/{key}" in excluded:
            yield LeftOut(f"{where}/{printable(key)}", "a sample that the split excludes")
            continue
        try:
            by_suffix = {member.suffix.lower(): member for member in group}
            if len(by_suffix) < len(group):
                raise DataError("several of its members have one name; keep one")
            video = _video(by_suffix, fields)
            if video is None:
                yield LeftOut(f"{where}/{printable(key)}", "a sample without a video")
                continue
            values = {"caption": _caption(by_suffix, fields), "split": split}
            yield video_of(f"{prefix}{name.removesuffix('.tar')}/{key}", {"": video.file}, values, None, 0)
        except DataError as error:
            yield BadVideo(f"{where}/{printable(key)}", str(error))


def _video(members: Mapping[str, Member], fields: FieldMap) -> Member | None:
    """Return the sample's video; None where it has none."""
    places = _places(VIDEO_FIELDS, fields)
    suffixes = [f".{place[0]}".lower() for place in places] or list(members)
    return next((members[s] for s in suffixes if s.endswith(VIDEO_SUFFIXES) and s in members), None)


def _places(names: Sequence[str], fields: FieldMap) -> list[list[str]]:
    """Return where any of these fields may be, the first place first."""
    return list(chain.from_iterable(fields.get(name, ()) for name in names))


def _caption(members: Mapping[str, Member], fields: FieldMap) -> str:
    """Read the caption at the first place that is there. Raises DataError where its JSON has no such thing."""
    places = _places(CAPTION_FIELDS, fields)
    for part, *keys in places or [["txt"]]:
        member = members.get(f".{part}".lower())
        if member is None:
            continue
        content = member.file.read_bytes()
        return _text_at(content, part, keys) if keys else caption_of(content)
    return ""


def _text_at(content: bytes, part: str, keys: list[str]) -> str:
    """Read what stands in JSON under nested keys. Raises DataError where nothing does, or no text."""
    try:
        value: Any = json.loads(content.decode("utf-8-sig"))
        for key in keys:
            value = value[int(key) if isinstance(value, list) else key]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise DataError(f"its caption, {part}[{']['.join(keys)}], can not be read ({error!r})") from error
    if not isinstance(value, str):
        raise DataError(f"its caption, {part}[{']['.join(keys)}], is no text: {str(value)[:40]!r}")
    return value.strip()
