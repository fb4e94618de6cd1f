"""Bridge as IRASim and Cosmos-Predict pack it: an annotation for each episode, with the states of the robot.

    annotation/SPLIT/N.json       (or annotations/) SPLIT is train, val or test, of which the last two are held out
    videos/SPLIT/N/rgb.mp4        named by the annotation

`state` holds x y z in metres and roll, pitch, yaw in radians (R = Rz Ry Rx) of the hand in the robot's base, and
`continuous_gripper_state` the gripper, a row for each of T frames. Actions are made of them, as training of those
models makes them, and the file's own column `action` is passed over: step k leads from frame k to frame k+1, in the
hand's axes at frame k, t = R_k^T (p_(k+1) - p_k) and the angles of R_k^T R_(k+1); its gripper is that of frame k+1.
T frames so have T-1 actions; the record's last step, which would lead past the end, is no motion with the last gripper.
No scale is applied (the released models multiply the first six by 20).

Descriptions of the data disagree which way the gripper counts. The rule is Bridge's own, 1 is open, and the grasps of
a data set test it: a hand that came down to grasp is open before and closed after. A data set whose grasps do not show
it, or that has none, is refused until `gripper_open` says it, so no episode has one unit in one build and another in
the next. The unit of `gripper` keeps it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

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
GripperOpen = Literal[0, 1]
"""The gripper's value when it is open."""
GRIPPER_UNITS: Mapping[GripperOpen, str] = {1: "1 open, 0 closed", 0: "0 open, 1 closed"}

FELL_SHARE = 0.25
"""A hand came down where it fell by this share of the way that it goes up and down in the episode."""

GRASP = 0.3
"""Smallest change of the gripper's state that is a grasp."""

AGREED_SHARE = 2 / 3
"""So many of a data set's grasps, or more, show which way its gripper counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Episode:
    name: str
    where: str
    data_set: str
    """The folder of its data set, from the folder that is read."""
    split: Split
    states_T7: np.ndarray
    caption: str
    videos: tuple[str, ...]
    """Names of the files, from the folder that is read."""


def read_bridge(
    root: str, files: Mapping[str, Path], gripper_open: GripperOpen | None = None
) -> tuple[list[Found], set[str]]:
    """Return (the episodes among the files below a folder, names of the files that are theirs).

    gripper_open: the gripper's value when it is open; None: 1, which the grasps of each data set must show.
    """
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
    of_data_set: dict[str, list[_Episode]] = defaultdict(list)
    for episode in episodes:
        of_data_set[episode.data_set].append(episode)
    doubts = {name: "" if gripper_open is not None else _doubt(own) for name, own in of_data_set.items()}
    unit = GRIPPER_UNITS[1 if gripper_open is None else gripper_open]
    for episode in episodes:
        missing = [video for video in episode.videos if video not in files]
        used.update(files.keys() & set(episode.videos))
        if doubts[episode.data_set]:
            found.append(BadVideo(episode.where, doubts[episode.data_set]))
        elif missing:
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
        data_set=match["base"],
        split=SPLITS[match["split"]],
        states_T7=np.concatenate([states_TN[:, :6], gripper_T1], axis=1),
        caption=next((text for text in _list(values, "texts") if isinstance(text, str)), "").strip(),
        videos=tuple(match["base"] + path for path in paths),
    )


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    said = values.get(key)
    return said if isinstance(said, list) else []


def _rows(values: Mapping[str, Any], key: str) -> np.ndarray:
    """Return float64 [T, N]; a list of numbers is of one a row."""
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


def _doubt(episodes: list[_Episode]) -> str:
    """Return why the grasps of a data set do not show that 1 is open; nothing where they do."""
    seen = [_value_before_grasp(episode.states_T7) for episode in episodes]
    grasps = [value for value in seen if value is not None]
    num_open_at_1 = sum(grasps)
    if grasps and num_open_at_1 >= AGREED_SHARE * len(grasps):
        return ""
    return (
        f"continuous_gripper_state: in {num_open_at_1} of {len(grasps)} grasps of its data set 1 is open before, and"
        f" {AGREED_SHARE:.0%} must show it; say which value is open (--gripper-open 1 or --gripper-open 0)"
    )


def _value_before_grasp(states_T7: np.ndarray) -> int | None:
    """Return the gripper's end of its range, 0 or 1, before it first changes, where the hand came down until then; else
    None."""
    z_T, gripper_T = states_T7[:, 2], states_T7[:, 6]
    low, high = gripper_T.min(), gripper_T.max()
    if high - low < GRASP:
        return None
    is_high_T = gripper_T > (low + high) / 2
    change = int(np.flatnonzero(is_high_T != is_high_T[0])[0])
    fell = z_T[0] - z_T[change]
    return int(is_high_T[0]) if fell > FELL_SHARE * (z_T.max() - z_T.min()) else None


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
