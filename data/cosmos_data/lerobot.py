"""A LeRobot folder (versions 2.0, 2.1 and 3.0): each episode one source with its cameras as views and its actions.

meta/info.json                      fps, features, and where files lie
meta/episodes.jsonl                 2.x: length and tasks of each episode, whose video and data are files of its own
meta/episodes/**/*.parquet          3.0: the same, and which part of which shared file is the episode's
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cosmos_data.conditions import Action
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.sources import BadVideo, Source, SourceView

INFO = "meta/info.json"
NOT_STATED = "not stated"
"""LeRobot names an action's dimensions, not their units or their frame of reference."""


def read_lerobot(folder: Path) -> Iterator[Source | BadVideo]:
    """Episode after episode. DataError where the folder's own files are wrong."""
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        version, fps, features = str(info["codebase_version"]), float(info["fps"]), info["features"]
        is_shared = version.startswith("v3.")
        if not is_shared and not version.startswith("v2."):
            raise DataError(f"{folder} is LeRobot {version}; 2.0, 2.1 and 3.0 can be read, convert it")
        cameras = [name for name, feature in features.items() if feature["dtype"] == "video"]
        names = _names(features["action"]) if "action" in features else None
        episodes = _shared_episodes(folder) if is_shared else _episodes(folder, info)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder} is not a LeRobot folder that can be read ({error!r}); see {INFO}") from error
    if not cameras:
        raise DataError(f"{folder} has no video among its features; only videos can be trained on")
    for episode in episodes:
        number = episode.get("episode_index")
        try:
            yield _source(folder, info, episode, cameras, names, fps)
        except (KeyError, TypeError, ValueError, IndexError, OSError, pa.ArrowException) as error:
            yield BadVideo(f"{folder}, episode {number}", f"it can not be read ({error})")


def _source(
    folder: Path, info: Mapping, episode: Mapping, cameras: list[str], names: tuple[str, ...] | None, fps: float
) -> Source:
    caption = ", ".join(episode["tasks"])
    views = []
    for camera in cameras:
        start_sec = episode.get(f"videos/{camera}/from_timestamp", 0.0)
        place = _inside(folder, info["video_path"], episode, f"videos/{camera}/", video_key=camera)
        view = camera.rpartition(".")[2]
        views.append(
            SourceView(file=VideoFile(str(place)), view=view, start_frame=round(start_sec * fps), caption=caption)
        )
    action = None
    if names is not None:
        data = _read_table(_inside(folder, info["data_path"], episode, "data/"))
        rows = data.filter(pc.field("episode_index") == episode["episode_index"])
        action = Action(
            names=names,
            units=(NOT_STATED,) * len(names),
            rate_hz=fps,
            frame_of_reference=NOT_STATED,
            values=tuple(float(value) for step in rows["action"].to_pylist() for value in step),
        )
    return Source(
        name=f"episode_{episode['episode_index']:06d}",
        views=tuple(views),
        num_frames=int(episode["length"]),
        action=action,
    )


def _names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """Of an action's dimensions: a list, or lists by group, or left out."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in group]
    return tuple(names) if names else tuple(f"action_{k}" for k in range(feature["shape"][0]))


def _episodes(folder: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    lines = (folder / "meta/episodes.jsonl").read_text(encoding="utf-8").splitlines()
    episodes = [json.loads(line) for line in lines if line.strip()]
    return [episode | {"chunk": episode["episode_index"] // info["chunks_size"]} for episode in episodes]


def _shared_episodes(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("meta/episodes/**/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def _inside(folder: Path, template: str, episode: Mapping[str, Any], where: str, **more: str) -> Path:
    """A path of the folder from a template of info.json, which must not lead out of it."""
    place = template.format(
        episode_index=episode["episode_index"],
        episode_chunk=episode.get("chunk"),
        chunk_index=episode.get(f"{where}chunk_index"),
        file_index=episode.get(f"{where}file_index"),
        **more,
    )
    if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
        raise ValueError(f"{INFO} leads out of the folder: {place}")
    return folder / place


@lru_cache(maxsize=2)
def _read_table(path: Path) -> pa.Table:
    return pq.read_table(path, columns=["episode_index", "action"])
