"""A LeRobot folder (versions 2.0, 2.1 and 3.0): each episode one video with its cameras as views and its actions.

meta/info.json                      fps, features, and where files lie
meta/episodes.jsonl                 2.x: length and tasks of each episode, whose video and data are files of its own
meta/episodes/**/*.parquet          3.0: the same, and which part of which shared file is the episode's
meta/tasks.jsonl, tasks.parquet     texts of the tasks that the data tables name by number, frame by frame

Cameras are features of videos, or of pictures that the data tables hold. Cameras of depth are left out unless they are
asked for by name, and so is every feature that a manifest has no place for; each is said once. Actions and states are
read by `lerobot_signals`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_data.contents import look_at
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.conditions import CaptionWindow
from cosmos_data.manifests.rows import json_object
from cosmos_data.readers.found import BadVideo, Found, FoundVideo, FoundView, LeftOut, PictureSequence, printable
from cosmos_data.readers.lerobot_info import INFO, Feature, Info, read_info
from cosmos_data.readers.lerobot_signals import (
    MODALITY,
    SignalPart,
    is_of_signal,
    left_uncovered,
    left_unnamed,
    read_modality,
    signal_of,
    signal_parts,
    view_names,
    with_sizes,
)

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Features that every folder has, and that say where a frame belongs."""


def is_lerobot(folder: Path) -> bool:
    """Tell whether a folder has that layout."""
    return (folder / INFO).is_file()


def read_lerobot(folder: Path, prefix: str = "", cameras: Sequence[str] = ()) -> Iterator[Found]:
    """Yield what is found in a LeRobot folder, episode after episode.

    Args:
        prefix: begins the names of the episodes.
        cameras: names of the features to take as views, in that order (none: all but depth).

    Raises:
        DataError: the folder's own description is wrong, or has no such camera.
    """
    info = with_sizes(read_info(folder))
    chosen = _cameras(info, cameras)
    modality = read_modality(info)
    actions, states = signal_parts(info, modality, "action"), signal_parts(info, modality, "state")
    signals = [part.feature for part in (*actions, *states)]
    yield from _not_taken(info, [*chosen, *signals], [*actions, *states])
    tasks, episodes = _tasks(info), _episodes(info)
    named = view_names(modality)
    own = views_of([feature.name for feature in chosen])
    views = [named.get(feature.name, view) for feature, view in zip(chosen, own, strict=True)]
    reader = _Reader(info, chosen, views, actions, states, tasks, len(episodes))
    for number, episode in enumerate(episodes):
        where = f"{printable(str(folder))}, episode {episode.get('episode_index', f'in row {number}')}"
        try:
            yield reader.video(episode, prefix)
        except DataError as error:
            yield BadVideo(where, str(error))


def _cameras(info: Info, asked: Sequence[str]) -> list[Feature]:
    videos = {name: feature for name, feature in info.features.items() if feature.is_picture}
    if not videos:
        raise DataError(f"{info.where} has no video among its features, and no pictures; one of them is needed")
    for name in asked:
        if name not in videos:
            raise DataError(f"{info.where} has no camera {name!r}; it has {', '.join(videos)}")
    chosen = [videos[name] for name in asked] or [feature for feature in videos.values() if not feature.is_depth]
    if not chosen:
        raise DataError(f"{info.where} has cameras of depth alone ({', '.join(videos)}); name one to train on it")
    return chosen


def _not_taken(info: Info, taken: Sequence[Feature], parts: list[SignalPart]) -> Iterator[LeftOut]:
    for name, feature in info.features.items():
        if name in BOOKKEEPING or feature in taken:
            continue
        if feature.is_depth and feature.is_picture:
            reason = "a camera of depth; name the cameras to take it (--cameras)"
        elif feature.is_picture:
            reason = "a camera that is not among --cameras"
        elif is_of_signal(name):
            reason = f"actions or states that are not read: {MODALITY}, or a feature that has them all, says others"
        else:
            reason = "a feature that a manifest has no place for"
        yield LeftOut(f"{info.where}: {name}", f"{name}: {reason}")
    for feature in left_unnamed(parts):
        said = f"{feature.name}: its names are not one for each of {feature.size} values; they are numbered instead"
        yield LeftOut(f"{info.where}: {feature.name}", said)
    for feature, start, end in left_uncovered(parts):
        said = f"{feature.name}: no part of {MODALITY} has its values {start} to {end - 1}; they are not read"
        yield LeftOut(f"{info.where}: {feature.name}", said)


def views_of(names: Sequence[str]) -> list[str]:
    """Return of each camera the fewest last parts of its name that tell all cameras apart: observation.images.front ->
    front; head.rgb and hand.rgb stay."""
    parts = [name.split(".") for name in names]
    for count in range(1, max(len(one) for one in parts) + 1):
        views = [".".join(one[-count:]) for one in parts]
        if len(set(views)) == len(views):
            return views
    return list(names)


def _tasks(info: Info) -> dict[int, str]:
    """Return the text of each task by number; empty where the folder has no such file."""
    table = info.folder / "meta/tasks.parquet"
    lines = info.folder / "meta/tasks.jsonl"
    if table.is_file():
        rows = read_table(table).to_pylist()
    elif lines.is_file():
        rows = read_lines(lines)
    else:
        return {}
    tasks = {}
    for row in rows:
        # pandas keeps the texts in its index, for which Parquet has a name of its own.
        text = row.get("task", row.get("__index_level_0__"))
        if not isinstance(row.get("task_index"), int) or not isinstance(text, str):
            raise DataError(f"{info.where}: meta/tasks has a row without task_index and text ({str(row)[:60]})")
        tasks[row["task_index"]] = text
    return tasks


def _episodes(info: Info) -> list[dict[str, Any]]:
    if not info.is_shared:
        return read_lines(info.folder / "meta/episodes.jsonl")
    paths = sorted(info.folder.glob("meta/episodes/**/*.parquet"))
    if not paths:
        raise DataError(f"{info.where} has no meta/episodes; fetch the folder again")
    rows = []
    for path in paths:
        names = [name for name in _schema(path).names if not name.startswith("stats/")]
        rows += read_table(path, tuple(names)).to_pylist()
    return rows


@dataclass(frozen=True, slots=True)
class _Reader:
    info: Info
    cameras: list[Feature]
    views: list[str]
    """Their names in the manifest."""

    actions: list[SignalPart]
    states: list[SignalPart]
    tasks: Mapping[int, str]
    num_episodes: int

    def video(self, episode: Mapping[str, Any], prefix: str) -> FoundVideo:
        """DataError where the episode's files or what is said of it are wrong."""
        index, num_frames = whole_number(episode, "episode_index"), whole_number(episode, "length")
        if num_frames < 1:
            raise DataError(f"its length is {num_frames}; an episode has a frame at least")
        said = _texts(episode.get("tasks"))
        # A table is opened only where it says more than the episode's row.
        signals = [*self.actions, *self.states]
        frames = self._frames(episode, index, num_frames) if signals or len(said) != 1 else None
        caption, windows = (", ".join(said), ()) if frames is None else self._captions(frames, said, num_frames)
        views = [
            replace(self._view(episode, index, feature), view=view, caption=caption)
            for feature, view in zip(self.cameras, self.views, strict=True)
        ]
        embodiment = self.info.robot_type
        return FoundVideo(
            name=f"{prefix}episode_{index:06d}",
            views=tuple(views),
            num_frames=num_frames,
            fps=self.info.fps,
            captions=windows,
            action=signal_of(frames, self.actions, self.info.fps, embodiment)
            if frames is not None and self.actions
            else None,
            state=signal_of(frames, self.states, self.info.fps, embodiment)
            if frames is not None and self.states
            else None,
            is_one_shot=True,
        )

    def _view(self, episode: Mapping[str, Any], index: int, feature: Feature) -> FoundView:
        if feature.dtype == "image":
            table = self.info.path("data_path", self._place(episode))
            pictures = PictureSequence(
                read=partial(_pictures, self.info, table, index, feature.name), fps=self.info.fps
            )
            return FoundView(file=VideoFile(str(table)), pictures=pictures)
        path = self.info.path("video_path", self._place(episode, feature.name), feature.name)
        return FoundView(file=VideoFile(str(path)), start_sec=self._start_sec(episode, feature.name))

    def _place(self, episode: Mapping[str, Any], camera: str = "") -> dict[str, int]:
        """Return what stands in a template's place of each name; of the data tables where no camera is given."""
        index = whole_number(episode, "episode_index")
        chunk, file = index // self.info.chunks_size, index
        if self.info.is_shared:
            column = f"videos/{camera}" if camera else "data"
            chunk = self._part(episode, f"{column}/chunk_index", camera)
            file = self._part(episode, f"{column}/file_index", camera)
        # Published folders use either name of the two for each.
        of_chunk = dict.fromkeys(("episode_chunk", "chunk_index"), chunk)
        return {"episode_index": index} | of_chunk | dict.fromkeys(("episode_file", "file_index"), file)

    def _part(self, episode: Mapping[str, Any], column: str, camera: str) -> int:
        """Return which of the shared files it is. Where the column is missing it is the only one."""
        if episode.get(column) is not None:
            return whole_number(episode, column)
        folder = self.info.folder / ("videos" if camera else "data")
        files = [path for path in folder.rglob("*") if path.is_file()]
        if camera:  # a whole part of the path: `top` is no part of `top_left`
            files = [path for path in files if camera in path.relative_to(folder).parts]
        if len(files) > 1:
            raise DataError(f"meta/episodes has no {column}, and there are {len(files)} files it may be in")
        return 0

    def _start_sec(self, episode: Mapping[str, Any], camera: str) -> float:
        """Return where the episode begins in its video."""
        if not self.info.is_shared:
            return 0.0
        column = f"videos/{camera}/from_timestamp"
        start = episode.get(column)
        if start is None and self.num_episodes == 1:
            return 0.0
        if isinstance(start, bool) or not isinstance(start, int | float) or not (0 <= start < math.inf):
            raise DataError(f"meta/episodes, {column}={start!r} says no time in the video")
        return float(start)

    def _frames(self, episode: Mapping[str, Any], index: int, num_frames: int) -> pa.Table | None:
        """Return the rows of the data table that are the episode's, in the order of its frames; None where there is no
        table and none is needed."""
        path = self.info.path("data_path", self._place(episode)) if "data_path" in self.info.templates else None
        if path is None or not path.is_file():
            if self.actions or self.states:
                raise DataError(f"its data table {printable(str(path))} is not there")
            return None
        columns = dict.fromkeys(part.feature.name for part in (*self.actions, *self.states))
        wanted = ("episode_index", "frame_index", "task_index", *columns)
        present = _schema(path).names
        for name in columns:
            if name not in present:
                raise DataError(f"{printable(str(path))} has no column {name}")
        rows = _rows_by_episode(path, tuple(name for name in wanted if name in present), path.stat().st_mtime_ns).get(
            index
        )
        if rows is None or len(rows) != num_frames:
            raise DataError(f"its data table has {0 if rows is None else len(rows)} rows, its length is {num_frames}")
        return rows

    def _captions(self, frames: pa.Table, said: list[str], num_frames: int) -> tuple[str, tuple[CaptionWindow, ...]]:
        """Return (caption of the whole, captions of the frames of each task where there are several)."""
        if "task_index" not in frames.column_names or not self.tasks:
            return ", ".join(said), ()
        numbers = frames["task_index"].to_pylist()
        for number in numbers:
            if number not in self.tasks:
                raise DataError(f"its task_index {number} is not in meta/tasks")
        texts = [text_of(self.tasks[number]) for number in numbers]
        windows, start = [], 0
        for text, run in groupby(texts):
            length = len(list(run))
            windows.append(CaptionWindow(start_frame=start, num_frames=length, text=text))
            start += length
        whole = ", ".join(text for text in dict.fromkeys(texts) if text)
        return whole, tuple(windows) if len(windows) > 1 else ()


def _pictures(info: Info, path: Path, episode_index: int, name: str) -> Iterator[bytes]:
    """Return the pictures of an episode, in the order of its frames: in the table, or in files that it names."""
    _schema(path)
    try:
        of_episode = [("episode_index", "=", episode_index)]
        table = pq.read_table(path, columns=["frame_index", name], filters=of_episode).sort_by("frame_index")
        rows = table[name].to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{printable(str(path))}, column {name}: its pictures can not be read ({error})") from error
    for frame_index, row in enumerate(rows):
        content = row.get("bytes") if isinstance(row, dict) else row
        if isinstance(content, bytes):
            yield content
        else:
            yield (info.folder / f"images/{name}/episode_{episode_index:06d}/frame_{frame_index:06d}.png").read_bytes()


def whole_number(episode: Mapping[str, Any], column: str) -> int:
    """Return a whole number of an episode's row. Raises DataError where it is none, or negative."""
    value = episode.get(column)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"meta/episodes, {column}={value!r} is no whole number from 0 on")
    return value


def text_of(task: str) -> str:
    """Return a text without what is no word: data sets that join three annotators' texts leave " |  | " where none
    wrote one."""
    return task.strip() if any(letter.isalnum() for letter in task) else ""


def _texts(tasks: Any) -> list[str]:
    tasks = [tasks] if isinstance(tasks, str) else tasks or []
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DataError(f"meta/episodes, tasks={str(tasks)[:40]!r} is no list of texts")
    return list(filter(None, map(text_of, tasks)))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines. DataError names the first wrong line."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise DataError(f"{printable(str(path))} can not be read ({error.strerror}); fetch the folder again") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json_object(line))
            except DataError as error:
                raise DataError(f"{printable(str(path))}, line {number}: {error}") from error
    return rows


def _schema(path: Path) -> pa.Schema:
    try:
        if (content := look_at(path)).kind == "stand-in":
            raise DataError(f"{printable(str(path))} is {content.what}")
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{printable(str(path))} is no Parquet file that can be read ({error})") from error


def read_table(path: Path, columns: tuple[str, ...] | None = None) -> pa.Table:
    """Read a table. Raises DataError where it is no Parquet file, or a text in it is not UTF-8."""
    _schema(path)
    try:
        table = pq.ParquetFile(path).read(columns=None if columns is None else list(columns))
        table.validate(full=True)
        return table
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{printable(str(path))} is damaged ({error}); fetch it again") from error


@lru_cache(maxsize=2)
def _rows_by_episode(path: Path, columns: tuple[str, ...], _mtime_ns: int) -> dict[int, pa.Table]:
    """Of a data table, the rows of each episode in the order of its frames. _mtime_ns: of the file, so that one that is
    written again is read again."""
    table = read_table(path, columns)
    keys = [name for name in ("episode_index", "frame_index") if name in columns]
    for name in keys:
        if not pa.types.is_integer(table[name].type) or table[name].null_count:
            raise DataError(f"{printable(str(path))}, column {name} holds something else than whole numbers")
    if "episode_index" not in keys:
        raise DataError(f"{printable(str(path))} has no column episode_index")
    table = table.sort_by([(name, "ascending") for name in keys])
    episodes, starts = np.unique(table["episode_index"].to_numpy(), return_index=True)
    ends = [*starts[1:], len(table)]
    return {
        int(episode): table.slice(int(start), int(end - start))
        for episode, start, end in zip(episodes, starts, ends, strict=True)
    }
