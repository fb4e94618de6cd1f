"""What is found in a source of videos, one thing at a time: a video with what is said about it, a video that is bad, or
something else, which is left out and counted by its reason."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, Convention, EgoTrajectory

LARGEST_BEND_PX = 0.5
"""A lens that moves no pixel of the pictures by more is taken for the pinhole that it nearly is."""

UNDISTORT = (
    "undistort the pictures (colmap image_undistorter, or OpenCV's undistort with these numbers, which are 0 from then"
    " on) and build from what that writes"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundCamera:
    """The poses that a file of another project holds. They become a `Camera` when the pictures are known."""

    where: str
    """The file, for people."""

    convention: Convention
    intrinsics: tuple[float, ...]
    """(fx, fy, cx, cy) once, or for each frame."""

    extrinsics: tuple[float, ...]
    """[3, 4] for each frame."""

    size_px: tuple[int, int] | None = None
    """Height and width of the picture that the intrinsics refer to; None: of the pictures themselves."""

    is_relative: bool = False
    """Whether intrinsics are divided by the picture's width and height."""

    bend_px: float = 0.0
    """By how much the lens moves a pixel at most from where a pinhole has it, in pixels of `size_px`."""

    lens: str = ""
    """The camera's model and distortion, for people."""

    times_sec: tuple[float, ...] = ()
    """When each pose's frame is shown, where the file says it."""

    def part_of(self, num_frames: int, fps: float) -> tuple[int, int] | None:
        """Return (first frame, number of frames) that the poses are of, by their times, where they are consecutive
        frames of a longer video; else None."""
        frames = [round(time_sec * fps) for time_sec in self.times_sec]
        if not 0 < len(frames) < num_frames or frames[-1] >= num_frames:
            return None
        is_consecutive = frames == list(range(frames[0], frames[0] + len(frames)))
        return (frames[0], len(frames)) if is_consecutive else None

    def of_pictures(self, num_frames: int, height_px: int, width_px: int) -> Camera:
        """Return the camera of so many pictures of that size.

        Raises:
            DataError: there are more or fewer poses than pictures, the file is about pictures of another shape, or its
                lens bends them by more than LARGEST_BEND_PX.
        """
        num_poses = len(self.extrinsics) // 12
        if num_poses != num_frames:
            raise DataError(
                f"{self.where} holds {num_poses} poses, and there are {num_frames} frames; give a pose for each frame,"
                " or cut the video to the frames that have one"
            )
        said_height_px, said_width_px = self.size_px or (height_px, width_px)
        off_px = min(
            abs(said_width_px * height_px / said_height_px - width_px),
            abs(said_height_px * width_px / said_width_px - height_px),
        )
        if off_px > 1:  # a picture that was scaled has sides of whole pixels
            raise DataError(
                f"{self.where} is about pictures of {said_width_px}x{said_height_px} px, and these are"
                f" {width_px}x{height_px}, another shape; give the intrinsics of the pictures as they were cropped"
            )
        bend_px = self.bend_px * height_px / said_height_px
        if not bend_px <= LARGEST_BEND_PX:
            raise DataError(
                f"{self.where} has {self.lens}, which moves pixels of these {width_px}x{height_px} px by up to"
                f" {bend_px:.3g} px; cameras here are pinholes, which it may miss by {LARGEST_BEND_PX} px: {UNDISTORT}"
            )
        scale = (width_px, height_px, width_px, height_px) if self.is_relative else (1, 1, 1, 1)
        scaled = tuple(value * scale[place % 4] for place, value in enumerate(self.intrinsics))
        return Camera(
            convention=self.convention,
            intrinsics_px=scaled,
            height_px=said_height_px,
            width_px=said_width_px,
            extrinsics=self.extrinsics,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSequence:
    """The frames of a video as pictures, in their order."""

    read: Callable[[], Iterable[bytes]]
    """Gives the bytes of each picture's file."""

    fps: float | None = None
    """Frames per second; None: the source does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundView:
    """A view is one file of a video, or its frames as pictures."""

    file: VideoFile
    """Where `pictures` are given: the folder or the table that holds them."""

    pictures: PictureSequence | None = None
    """The frames, which the build gathers into a video file."""

    view: str = ""
    start_frame: int = 0
    start_sec: float = 0.0
    """Instead of start_frame, where what is said of the video counts time; see `FoundVideo.fps`."""

    caption: str = ""
    camera: Camera | FoundCamera | None = None


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

    has_step_per_frame: bool = False
    """Whether its signals have a step for each frame, at whatever rate the file has."""

    split: Split | None = None
    captions: tuple[CaptionWindow, ...] = ()
    action: Action | None = None
    state: Action | None = None
    ego_trajectory: EgoTrajectory | None = None
    labels_file: VideoFile | None = None
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
    """Return a name for people: bytes that are not UTF-8, and control characters, are spelled out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
