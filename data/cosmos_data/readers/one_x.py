"""1X's world model data of version 2.0 (worldmodel_raw_data): shards of film of a humanoid, with its states.

    video_K.mp4           the frames of many segments, one after the other
    segment_idx_K.bin     int32 [N]: the segment of each frame
    states_K.bin          float32 [N, 25]: the robot's joints, hands and velocities at each frame

Each segment is a video of its own, so no clip goes over into the next. Folders whose name begins with val or test are
held out. The same data as tokens (worldmodel: video_K.bin, windows of 17 frames by Cosmos-Tokenizer DV8x8x8) has no
pictures to encode and is refused. Layout and names: the data set's card.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.conditions import Action
from cosmos_data.readers.found import BadVideo, Found, FoundVideo, FoundView, printable

SEGMENTS = re.compile(r"(?P<base>|.*/)segment_idx_(?P<shard>\d+)\.bin")
EMBODIMENT = "1x"

_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow_pitch", "elbow_yaw", "wrist_pitch", "wrist_roll")
NAMES = (
    *("hip_yaw", "hip_roll", "hip_pitch", "knee_pitch", "ankle_roll", "ankle_pitch"),
    *(f"left_{name}" for name in _ARM),
    *(f"right_{name}" for name in _ARM),
    *("neck_pitch", "left_hand_closure", "right_hand_closure", "linear_velocity", "angular_velocity"),
)
UNITS = (*("rad",) * 21, *("0 open, 1 closed",) * 2, "m/s", "rad/s")


def read_one_x(root: str, files: Mapping[str, Path]) -> tuple[list[Found], set[str]]:
    """Return (the segments of the shards among the files below a folder, names of the files that are theirs)."""
    found, used = list[Found](), set[str]()
    for name in sorted(name for name in files if name.endswith(".bin")):
        match = SEGMENTS.fullmatch(name)
        if match is None or f"{match['base']}states_{match['shard']}.bin" not in files:
            continue
        states = f"{match['base']}states_{match['shard']}.bin"
        video, tokens = (f"{match['base']}video_{match['shard']}.{suffix}" for suffix in ("mp4", "bin"))
        metadata = (f"{match['base']}metadata_{match['shard']}.json", f"{match['base']}metadata.json")
        used.update(files.keys() & {name, states, video, tokens, *metadata})
        try:
            if video not in files:
                raise DataError(_without_video(has_tokens=tokens in files))
            found.extend(_segments(match, files[name], files[states], files[video]))
        except (DataError, OSError) as error:
            found.append(BadVideo(printable(str(Path(root) / name)), str(error)))
    return found, used


def _without_video(*, has_tokens: bool) -> str:
    if has_tokens:
        return (
            "its shard holds tokens of Cosmos-Tokenizer DV8x8x8, which are not read; fetch the same data as video"
            " (worldmodel_raw_data)"
        )
    return "its shard has no video; fetch it again"


def _segments(match: re.Match[str], segments: Path, states: Path, video: Path) -> Iterator[FoundVideo]:
    segment_N = np.fromfile(segments, dtype="<i4")
    values = np.fromfile(states, dtype="<f4")
    if not len(segment_N) or len(values) != len(segment_N) * len(NAMES):
        raise DataError(
            f"it has {len(segment_N)} frames, and {states.name} {len(values)} values; {len(NAMES)} belong to each frame"
        )
    states_ND = values.reshape(len(segment_N), len(NAMES))
    starts = [0, *(np.flatnonzero(np.diff(segment_N)) + 1).tolist()]
    folder = PurePosixPath(match["base"]).name or video.parent.name
    split: Split = "heldout" if folder.startswith(("val", "test")) else "train"
    for start, end in zip(starts, [*starts[1:], len(segment_N)], strict=True):
        state = Action(
            names=NAMES,
            units=UNITS,
            rate_hz=1.0,  # the build gives it the video's
            frame_of_reference="robot",
            values=tuple(states_ND[start:end].astype(np.float64).ravel().tolist()),
            embodiment=EMBODIMENT,
        )
        yield FoundVideo(
            name=f"{match['base']}video_{match['shard']}@{start}",
            views=(FoundView(file=VideoFile(str(video)), start_frame=start),),
            num_frames=end - start,
            split=split,
            state=state,
            has_step_per_frame=True,
            is_one_shot=True,
        )
