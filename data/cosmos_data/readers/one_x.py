"""1X's world model data of version 2.0 (worldmodel_raw_data): shards of film of a humanoid, with its states.

    SPLIT/metadata.json
    SPLIT/videos/video_K.mp4                   the frames of many segments, one after the other
    SPLIT/segment_indices/segment_idx_K.bin    int32 [N]: the segment of each frame
    SPLIT/robot_states/states_K.bin            float32 [N, 25]: joints, hands and velocities at each frame
    SPLIT/metadata/metadata_K.json

The files of a split lie in these folders, or all in SPLIT itself. Each segment is a video of its own, so no clip goes
over into the next. Folders whose name begins with val or test are held out. Commands are not published: the action of
step k is the state of frame k+1, to which it leads, and the record's last step stays where it is.

The same data as tokens has no pictures and is refused, each folder once: worldmodel of version 2.0 (video_K.bin,
windows of 17 frames by Cosmos-Tokenizer DV8x8x8) and of the earlier challenge, 1.1 (video.bin with segment_ids.bin and
actions/, single frames by MAGVIT2). Layouts and names: the data sets' cards.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.conditions import Action
from cosmos_data.readers.found import BadVideo, Found, FoundVideo, FoundView, printable

SHARD_FILE = re.compile(r"(?P<kind>segment_idx|states|video|metadata)_(?P<shard>\d+)\.(bin|mp4|json)")
FOLDERS = ("videos", "robot_states", "segment_indices", "segment_indicies", "metadata")
"""The published folders of a split; one of them is also spelled as on the data set's card."""

EMBODIMENT = "1x"

_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow_pitch", "elbow_yaw", "wrist_pitch", "wrist_roll")
NAMES = (
    *("hip_yaw", "hip_roll", "hip_pitch", "knee_pitch", "ankle_roll", "ankle_pitch"),
    *(f"left_{name}" for name in _ARM),
    *(f"right_{name}" for name in _ARM),
    *("neck_pitch", "left_hand_closure", "right_hand_closure", "linear_velocity", "angular_velocity"),
)
UNITS = (*("rad",) * 21, *("0 open, 1 closed",) * 2, "m/s", "rad/s")

FETCH_VIDEOS = "fetch the same data as videos (worldmodel_raw_data)"


def read_one_x(root: str, files: Mapping[str, Path]) -> tuple[list[Found], set[str]]:
    """Return (the segments of the shards among the files below a folder, names of the files that are theirs)."""
    found, used = list(_earlier_challenge(root, files)), _files_of_earlier_challenge(files)
    num_token_shards: dict[str, int] = defaultdict(int)
    for (split_folder, shard), names in sorted(_shards(files).items()):
        if "segment_idx" not in names:
            continue
        used.update(names.values(), files.keys() & {f"{split_folder}metadata.json"})
        if "video.mp4" not in names and "video.bin" in names:
            num_token_shards[split_folder] += 1
            continue
        where = printable(str(Path(root) / names["segment_idx"]))
        try:
            for kind, name in (("video.mp4", "video"), ("states", "states")):
                if kind not in names:
                    raise DataError(f"its shard has no {name} ({name}_{shard}); fetch it again")
            found.extend(_segments(Path(root), split_folder, shard, {kind: files[names[kind]] for kind in names}))
        except (DataError, OSError) as error:
            found.append(BadVideo(where, str(error)))
    for split_folder, count in num_token_shards.items():
        reason = (
            f"{count} shards of 1X's tokens (video_K.bin, windows of 17 frames by Cosmos-Tokenizer DV8x8x8), which give"
            f" no pictures without that tokenizer's decoder; {FETCH_VIDEOS}, or decode each to video_K.mp4 beside it"
        )
        found.append(BadVideo(printable(str(Path(root) / split_folder)), reason))
    return found, used


def _shards(files: Mapping[str, Path]) -> dict[tuple[str, str], dict[str, str]]:
    """Return the names of files by their kind, by (folder of the split, number of the shard)."""
    shards: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in files:
        folder, _, own = name.rpartition("/")
        match = SHARD_FILE.fullmatch(own)
        if match is None:
            continue
        parent, _, last = folder.rpartition("/")
        split_folder = parent if last in FOLDERS else folder
        kind = "video" + PurePosixPath(own).suffix if match["kind"] == "video" else match["kind"]
        shards[split_folder and split_folder + "/", match["shard"]][kind] = name
    return shards


def _earlier_challenge(root: str, files: Mapping[str, Path]) -> Iterator[Found]:
    """Yield what is said of each folder of version 1.1."""
    for folder in _folders_of_earlier_challenge(files):
        reason = (
            "1X's tokens of version 1.1 (video.bin, single frames by MAGVIT2), which give no pictures without 1X's"
            f" magvit2.ckpt and are of data that 1X has replaced since; {FETCH_VIDEOS}"
        )
        yield BadVideo(printable(str(Path(root) / folder)), reason)


def _folders_of_earlier_challenge(files: Mapping[str, Path]) -> list[str]:
    folders = [name.removesuffix("segment_ids.bin") for name in files if PurePosixPath(name).name == "segment_ids.bin"]
    return sorted(folder for folder in folders if f"{folder}video.bin" in files)


def _files_of_earlier_challenge(files: Mapping[str, Path]) -> set[str]:
    used = set[str]()
    for folder in _folders_of_earlier_challenge(files):
        used.update(files.keys() & {folder + own for own in ("video.bin", "segment_ids.bin", "metadata.json")})
        used.update(name for name in files if name.startswith(f"{folder}actions/"))
    return used


def _segments(root: Path, split_folder: str, shard: str, paths: Mapping[str, Path]) -> Iterator[FoundVideo]:
    """paths: of the shard's files, by their kind."""
    segment_N = np.fromfile(paths["segment_idx"], dtype="<i4")
    values = np.fromfile(paths["states"], dtype="<f4")
    if not len(segment_N) or len(values) != len(segment_N) * len(NAMES):
        raise DataError(
            f"it has {len(segment_N)} frames, and {paths['states'].name} {len(values)} values; {len(NAMES)} belong to"
            " each frame"
        )
    states_ND = values.reshape(len(segment_N), len(NAMES)).astype(np.float64)
    starts = [0, *(np.flatnonzero(np.diff(segment_N)) + 1).tolist()]
    name_of_split = PurePosixPath(split_folder).name or root.name
    split: Split = "heldout" if name_of_split.startswith(("val", "test")) else "train"
    for start, end in zip(starts, [*starts[1:], len(segment_N)], strict=True):
        states_TD = states_ND[start:end]
        yield FoundVideo(
            name=f"{split_folder}video_{shard}@{start}",
            views=(FoundView(file=VideoFile(str(paths["video.mp4"])), start_frame=start),),
            num_frames=end - start,
            split=split,
            action=_signal(np.concatenate([states_TD[1:], states_TD[-1:]])),
            state=_signal(states_TD),
            has_step_per_frame=True,
            is_one_shot=True,
        )


def _signal(values_TD: np.ndarray) -> Action:
    return Action(
        names=NAMES,
        units=UNITS,
        rate_hz=1.0,  # the build gives it the video's
        frame_of_reference="robot",
        values=tuple(values_TD.ravel().tolist()),
        embodiment=EMBODIMENT,
    )
