"""meta/info.json of a LeRobot folder, checked: rate, features, and where files lie."""

import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cosmos_data.contents import look_at
from cosmos_data.errors import DataError
from cosmos_data.manifests.rows import json_object
from cosmos_data.readers.found import printable

INFO = "meta/info.json"

PLACES = ("episode_index", "episode_chunk", "chunk_index", "file_index", "episode_file", "video_key")
"""What a template of a path may name."""


@dataclass(frozen=True, slots=True)
class Feature:
    name: str
    dtype: str
    shape: tuple[int, ...]
    names: Any
    """Of its values: nothing, a list, lists by group, or {name: place}, as people declare them."""

    is_depth: bool

    @property
    def is_number(self) -> bool:
        return self.dtype.startswith(("float", "int", "uint", "bool"))

    @property
    def is_picture(self) -> bool:
        """Tell whether it is a camera: a video, or pictures in tables."""
        return self.dtype in ("video", "image")

    @property
    def size(self) -> int:
        """Return how many values a frame has; a single one may be stored without a shape."""
        return math.prod(self.shape)

    def dimension_names(self) -> list[str] | None:
        """Return a name for each value, none twice: numbers where none are given; None where those given do not fit."""
        if self.names is None:
            return [str(number) for number in range(self.size)]
        names = list(_flat(self.names))
        if isinstance(self.names, dict) and all(isinstance(place, int) for place in self.names.values()):
            names = sorted(self.names, key=self.names.__getitem__)
        if isinstance(self.names, dict) and len(set(names)) < len(names):  # left.x, right.x
            names = []
            for group, inner in self.names.items():
                names += [f"{group}.{name}" for name in _flat(inner)]
        return names if len(names) == self.size and len(set(names)) == len(names) else None


@dataclass(frozen=True, slots=True)
class Info:
    folder: Path
    version: str
    fps: float
    features: Mapping[str, Feature]
    chunks_size: int
    templates: Mapping[str, str]
    """data_path and video_path."""

    robot_type: str = ""
    """Whose actions they are; empty where it is not said."""

    @property
    def is_shared(self) -> bool:
        """Tell whether one file holds many episodes."""
        return self.version.startswith("v3.")

    @property
    def where(self) -> str:
        return printable(str(self.folder))

    def path(self, key: str, places: Mapping[str, int], camera: str = "") -> Path:
        """Return a file of the folder, from a template and what stands in the place of its names."""
        template = self.templates.get(key)
        if template is None:
            raise DataError(f"{INFO} has no {key}")
        place = template.format(**places, video_key=camera)
        path = PurePosixPath(place)
        if path.is_absolute() or ".." in path.parts or "\0" in place:
            raise DataError(f"{INFO}, {key} leads out of the folder: {place}")
        return self.folder / path


def read_info(folder: Path) -> Info:
    """Read what a folder says of itself. DataError names what is missing or of another kind."""
    where = f"{printable(str(folder))}: {INFO}"
    path = folder / INFO
    try:
        if (kind := look_at(path)).kind == "stand-in":
            raise DataError(f"{where} is {kind.what}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where} can not be read ({error.strerror})") from error
    try:
        values = json_object(content)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    version, fps, features = (values.get(key) for key in ("codebase_version", "fps", "features"))
    if not isinstance(version, str) or not version.startswith(("v2.", "v3.")):
        raise DataError(f"{printable(str(folder))} is LeRobot {version}; 2.0, 2.1 and 3.0 can be read, convert it")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not (0 < fps < 1e6):
        raise DataError(f"{where}, fps={fps!r} is no rate")
    if not isinstance(features, dict):
        raise DataError(f"{where}, features={str(features)[:40]!r} is no object")
    chunks_size = values.get("chunks_size", 1000)
    if isinstance(chunks_size, bool) or not isinstance(chunks_size, int) or chunks_size < 1:
        raise DataError(f"{where}, chunks_size={chunks_size!r} is no positive count")
    robot_type = values.get("robot_type")
    templates = {key: values[key] for key in ("data_path", "video_path") if values.get(key) is not None}
    for key, template in templates.items():
        if fault := _template_fault(template):
            raise DataError(f"{where}, {key}={template!r} {fault}")
    return Info(
        folder=folder,
        version=version,
        fps=float(fps),
        features={name: _feature(name, said, where) for name, said in features.items()},
        chunks_size=chunks_size,
        templates=templates,
        robot_type=robot_type if isinstance(robot_type, str) and robot_type != "unknown" else "",
    )


def _feature(name: str, said: Any, where: str) -> Feature:
    dtype = said.get("dtype") if isinstance(said, dict) else None
    if not isinstance(dtype, str):
        raise DataError(f"{where}, feature {name!r} has no dtype")
    shape = said.get("shape")
    shape = shape if isinstance(shape, list) else []
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 10**6 for size in shape):
        raise DataError(f"{where}, feature {name!r} has the shape {str(shape)[:40]}; use positive counts")
    notes = said.get("info") or said.get("video_info") or {}
    is_marked = isinstance(notes, dict) and notes.get("video.is_depth_map") is True
    is_depth = is_marked or "depth" in name.lower().replace("_", ".").replace("/", ".").split(".")
    return Feature(name, dtype, tuple(shape), said.get("names"), is_depth)


def _template_fault(template: Any) -> str | None:
    """Say what is wrong with a template, which is not the project's own: one that formats whatever it names could read
    attributes, or fill the memory with a width of its choice."""
    if not isinstance(template, str):
        return "is no text"
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"is no template ({error})"
    for _, name, spec, conversion in fields:
        if name is None:
            continue
        if name not in PLACES:
            return f"names {name!r}; it may name {', '.join(PLACES)}"
        if conversion or spec not in ("", *(f"0{width}d" for width in range(1, 10))) or (spec and name == "video_key"):
            return f"writes {name} as {spec!r}; use 03d or the like"
    return None


def _flat(names: Any) -> Iterator[str]:
    """Return the names in lists and in lists by group, at any depth, in their order; what is no text is written as
    one."""
    waiting = [names]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            one = list(one.values())
        if isinstance(one, list):
            waiting += reversed(one)
        elif one is not None:
            yield str(one)
