"""Bridge as IRASim and Cosmos-Predict pack it: an annotation for each episode, with the states of the robot.

    annotation/SPLIT/N.json       (or annotations/) SPLIT is train, val or test, of which the last two are held out
    videos/SPLIT/N/rgb.mp4        named by the annotation

`state` holds x y z in metres and roll, pitch, yaw in radians (R = Rz Ry Rx) of the hand in the robot's base, and
`continuous_gripper_state` the gripper, a row for each of T frames. Actions are made of them, as training of those
models makes them, and the file's own column `action` is passed over: step k leads from frame k to frame k+1, in the
hand's axes at frame k, t = R_k^T (p_(k+1) - p_k) and the angles of R_k^T R_(k+1); its gripper is that of frame k+1.
T frames so have T-1 actions; the record's last step, which would lead past the end, is no motion with the last gripper.
No scale is applied (the released models multiply the first six by 20).

Which way the gripper counts is found in the episodes, since descriptions of the data disagree: a hand that came down to
grasp is open before and closed after. The unit of `gripper` says it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import framewise_deltas, poses_of
from cosmos_data.geometry.rotations import from_euler, to_euler
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.rows import json_object
from cosmos_data.readers.found import BadVideo, Found, FoundVideo, FoundView, LeftOut, printable

ANNOTATION = re.compile(r"(?P<base>|.*/)annotations?/(?P<split>train|val|test)/(?P<episode>[^/]+)\.json")
SPLITS: Mapping[str, Split] = {"train": "train", "val": "heldout", "test": "heldout"}

EMBODIMENT = "bridge"
ORDER = "xyz"
"""Roll, pitch and yaw about fixed axes."""

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
UNITS = ("m", "m", "m", "rad", "rad", "rad")
OPEN_IS_1, OPEN_IS_0 = "1 open, 0 closed", "0 open, 1 closed"

FELL_SHARE = 0.25
"""A hand came down where it fell by this share of the way that it goes up and down in the episode."""

GRASP = 0.3
"""Smallest change of the gripper's state that is a grasp."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Episode:
    name: str
    where: str
    split: Split
    states_T7: np.ndarray
    caption: str
    videos: tuple[str, ...]
    """Names of the files, from the folder that is read."""


def read_bridge(root: str, files: Mapping[str, Path]) -> tuple[list[Found], set[str]]:
    """Return (the episodes among the files below a folder, names of the files that are theirs)."""
    matched = {name: ANNOTATION.fullmatch(name) for name in sorted(files) if name.endswith(".json")}
    annotations = {name: match for name, match in matched.items() if match is not None}
    if not annotations:
        return [], set()
    found, used, episodes = list[Found](), set(annotations), list[_Episode]()
    for name, match in annotations.items():
        where = printable(str(Path(root) / name))
        try:
            episodes.append(_episode(files[name].read_bytes(), where, match))
        except (DataError, OSError) as error:
            found.append(BadVideo(where, str(error)))
    unit = _unit_of_gripper(episodes)
    for episode in episodes:
        missing = [video for video in episode.videos if video not in files]
        used.update(files.keys() & set(episode.videos))
        if missing:
            found.append(BadVideo(episode.where, f"its video {printable(missing[0])} is not there"))
        else:
            found.append(_video(episode, unit, files))
    bases = tuple({f"{match['base']}videos/" for match in annotations.values()})
    for name in sorted(files):
        if name.startswith(bases) and name not in used:
            used.add(name)
            found.append(LeftOut(printable(str(Path(root) / name)), "a file of Bridge that no annotation names"))
    return found, used


def _episode(content: bytes, where: str, match: re.Match[str]) -> _Episode:
    values = json_object(content)
    states_TN = _rows(values, "state")
    gripper_T1 = _rows(values, "continuous_gripper_state")
    if states_TN.shape[1] < 6 or gripper_T1.shape[1] != 1 or len(states_TN) != len(gripper_T1):
        raise DataError(
            f"state has the shape {list(states_TN.shape)} and continuous_gripper_state {list(gripper_T1.shape)}; x y z"
            " roll pitch yaw and one gripper are needed for each frame"
        )
    said = [one.get("video_path") if isinstance(one, dict) else None for one in _list(values, "videos")]
    paths = [path for path in said if isinstance(path, str)]
    if not paths or len(paths) < len(said):
        raise DataError("it names no videos: [{video_path}]")
    return _Episode(
        name=f"{match['base']}{match['split']}/{match['episode']}",
        where=where,
        split=SPLITS[match["split"]],
        states_T7=np.concatenate([states_TN[:, :6], gripper_T1], axis=1),
        caption=next((text for text in _list(values, "texts") if isinstance(text, str)), "").strip(),
        videos=tuple(match["base"] + path for path in paths),
    )


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    said = values.get(key)
    return said if isinstance(said, list) else []


def _rows(values: Mapping[str, Any], key: str) -> np.ndarray:
    """float64 [T, N]; a list of numbers is of one a row."""
    try:
        rows = np.asarray(values.get(key), dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{key} holds something else than numbers, or rows of different lengths") from error
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.size:
        raise DataError(f"it has no {key}, a row of numbers for each frame")
    if not np.isfinite(rows).all():
        raise DataError(f"{key} holds NaN or infinity at frame {np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]}")
    return rows


def actions_T7(states_T7: np.ndarray) -> np.ndarray:
    """Return the actions that lead from state to state, and the last one, which leads nowhere."""
    deltas = framewise_deltas(poses_of(states_T7[:, :3], from_euler(states_T7[:, 3:6], ORDER)))
    moves = np.concatenate([deltas[:, :3, 3], to_euler(deltas[:, :3, :3], ORDER)], axis=1)
    moves = np.concatenate([moves, np.zeros((1, 6))])
    gripper_T1 = states_T7[[*range(1, len(states_T7)), -1], 6:]
    return np.concatenate([moves, gripper_T1], axis=1)


def _unit_of_gripper(episodes: list[_Episode]) -> str:
    """What the majority of grasps says; of none, as Bridge itself has it: 1 is open."""
    seen = [_value_before_grasp(episode.states_T7) for episode in episodes]
    votes = [value for value in seen if value is not None]
    return OPEN_IS_0 if votes and np.mean(votes) < 0.5 else OPEN_IS_1


def _value_before_grasp(states_T7: np.ndarray) -> float | None:
    """The gripper's share of its range, 0 or 1, before it first changes, where the hand came down until then."""
    z_T, gripper_T = states_T7[:, 2], states_T7[:, 6]
    low, high = gripper_T.min(), gripper_T.max()
    if high - low < GRASP:
        return None
    is_high_T = gripper_T > (low + high) / 2
    change = int(np.flatnonzero(is_high_T != is_high_T[0])[0])
    fell = z_T[0] - z_T[change]
    return float(is_high_T[0]) if fell > FELL_SHARE * (z_T.max() - z_T.min()) else None


def _video(episode: _Episode, unit: str, files: Mapping[str, Path]) -> FoundVideo:
    stems = [PurePosixPath(video).stem for video in episode.videos]
    is_told_apart = len(set(stems)) == len(stems)
    views = []
    for number, (video, stem) in enumerate(zip(episode.videos, stems, strict=True)):
        name = "" if len(stems) == 1 else stem if is_told_apart else f"camera_{number}"
        views.append(FoundView(file=VideoFile(str(files[video])), view=name, caption=episode.caption))
    return FoundVideo(
        name=episode.name,
        views=tuple(views),
        split=episode.split,
        action=_signal(actions_T7(episode.states_T7), "hand at the step's frame", unit),
        state=_signal(episode.states_T7, "robot base", unit),
        has_step_per_frame=True,
        is_one_shot=True,
    )


def _signal(values_T7: np.ndarray, frame_of_reference: str, unit: str) -> Action:
    return Action(
        names=NAMES,
        units=(*UNITS, unit),
        rate_hz=1.0,  # the build gives it the video's
        frame_of_reference=frame_of_reference,
        values=tuple(values_T7.ravel().tolist()),
        embodiment=EMBODIMENT,
    )
