"""What is found in a source of videos, one thing at a time: a video with what is said about it, a video that is bad, or
something else, which is left out and counted by its reason."""

from dataclasses import dataclass

from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, EgoTrajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundView:
    """A view is one file of a video."""

    file: VideoFile
    view: str = ""
    start_frame: int = 0
    start_sec: float = 0.0
    """Instead of start_frame, where what is said of the video counts time; see `FoundVideo.fps`."""

    caption: str = ""
    camera: Camera | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundVideo:
    """What a reader has found is a video, or several of the same moments, and what is known of it."""

    name: str
    """Begins the names of its clips; no other video of the build has it."""

    views: tuple[FoundView, ...]
    num_frames: int | None = None
    """From each view's start on; None: to the end of the file."""

    fps: float | None = None
    """The rate that num_frames and the steps of signals count, where its data set states one. A file that has another
    rate is read by time."""

    split: Split | None = None
    captions: tuple[CaptionWindow, ...] = ()
    action: Action | None = None
    state: Action | None = None
    ego_trajectory: EgoTrajectory | None = None
    is_one_shot: bool = False
    """Whether it is never cut where one shot seems to end: a robot's episode goes on when the light changes."""


@dataclass(frozen=True, slots=True)
class BadVideo:
    """A video that gave no clip, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that is no video for this build, or is not taken from it; said by reason, and no fault of the data."""

    path: str
    reason: str


Found = FoundVideo | BadVideo | LeftOut


def printable(name: str) -> str:
    """A name for people: bytes that are not UTF-8, and control characters, are spelled out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
