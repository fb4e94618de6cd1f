"""A clip is the row of a manifest. See `cosmos_data.manifests.manifest`."""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, EgoTrajectory, signal_faults

Split = Literal["train", "heldout"]
Seek = Literal["rate", "stamps", "count"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """One view of a clip: where its frames are, and how they are found there."""

    path: str
    """Absolute path of the video file, or of the tar shard that holds it (stored: relative where it lies below the
    manifest)."""

    offset_bytes: int | None = None
    """Where the file begins in the shard; None: `path` is the file itself. size_bytes likewise."""

    size_bytes: int | None = None
    start_frame: int
    """The clip's first frame, counted from the file's first frame."""

    height_px: int
    """Of the picture as it is to be shown; width_px likewise."""

    width_px: int
    rotation_deg: int = 0
    """By how much stored pictures are to be turned counter-clockwise: 0, 90, 180 or 270."""

    is_mirrored: bool = False
    """Left and right of stored pictures change places before they are turned."""

    stream_index: int | None = None
    """Place of the video among the file's streams, where the file has several videos (a cover, a preview)."""

    pixel_aspect: str = "1:1"
    """Width to height of a stored pixel."""

    is_squared: bool = False
    """Pictures are scaled in width to square pixels, which is the width that the manifest says."""

    codec: str
    """FFmpeg's name of the codec: h264, vp9, mjpeg ..."""

    pixel_format: str = ""
    """FFmpeg's name of what the codec stores: yuv420p, yuv420p10le ... Empty where it is not known."""

    color_matrix: str
    """bt601 (also where the file does not say), bt709, bt2020 ..."""

    transfer: str = ""
    """What signals mean: bt709, srgb, pq, hlg ... Empty where the file does not say; the next two likewise."""

    primaries: str = ""
    color_range: str = ""
    """limited or full."""

    field_order: str = "progressive"
    """progressive, or interlaced: lines of two moments."""

    has_alpha: bool = False
    is_tone_mapped: bool = False
    """High dynamic range is brought to that of a usual screen (`cosmos_data.videos.tone_mapping`)."""

    is_deinterlaced: bool = False
    background: str = ""
    """RRGGBB of what is put behind transparent pictures; empty: nothing is."""

    seek: Seek = "rate"
    """How frame k of the file is found. rate: its time stamp is first_pts + k / fps. stamps: it has the k-th smallest
    time stamp (variable frame rate). count: stamps are missing or wrong, frames are counted from the first."""

    first_pts: int | None = None
    """Time stamp of the FILE's first frame; None where frames are not found by a rate."""

    digest: str
    """`clip_digest` of the file's bytes and the clip's place in it."""

    caption: str = ""
    """Of the whole clip; empty where there is none."""

    view: str = ""
    """Name of the camera, where a clip has several: front, wrist ..."""

    camera: Camera | None = None

    @property
    def treatment(self) -> str:
        """Say what is made of the file's pictures, beyond a turn, before anybody sees them; empty: nothing."""
        made_of = {
            f"stream {self.stream_index}": self.stream_index is not None,
            "mirrored": self.is_mirrored,
            f"{self.width_px}x{self.height_px} px for pixels of {self.pixel_aspect}": self.is_squared,
            "tone-mapped": self.is_tone_mapped,
            "deinterlaced": self.is_deinterlaced,
            f"on #{self.background}": self.background != "",
        }
        return ", ".join(name for name, applies in made_of.items() if applies)

    def digest_of(self, file_sha256: str, num_frames: int) -> str:
        """Return the digest that these pictures have, if their file has this one."""
        return clip_digest(file_sha256, start_frame=self.start_frame, num_frames=num_frames, treatment=self.treatment)

    @property
    def file(self) -> VideoFile:
        return VideoFile(self.path, self.offset_bytes, self.size_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip(Pictures):
    """A row. Its own pictures are the first view's; frames, rate and conditions are those of all views."""

    clip_id: str
    """Stable name, unique in the manifest."""

    num_frames: int
    fps: float
    """Frames per second; of a variable rate the mean."""

    duration_sec: float = 0.0
    """From the first frame's beginning to the last one's end."""

    split: Split
    captions: tuple[CaptionWindow, ...] = ()
    """Of parts of the clip, where there are such captions."""

    views: tuple[Pictures, ...] = ()
    """The other views of the same frames."""

    action: Action | None = None
    state: Action | None = None
    """What the robot's sensors said: joints, the place of the hand."""

    ego_trajectory: EgoTrajectory | None = None
    labels_file: VideoFile | None = None
    """The labels of a simulated clip lie there (`cosmos_data.simulate.labels`). They count frames as the first view's
    file does. It is no part of a manifest's digest, as no place is."""

    def each_view(self) -> tuple["Clip", ...]:
        """Return a clip for each view, the first one's first, without `views`."""
        return (replace(self, views=()), *(self._of(pictures) for pictures in self.views))

    def caption_at(self, start_frame: int, num_frames: int) -> str:
        """Return the caption that most of these frames, counted from the clip's first, have; where none has one, that
        of the whole clip."""
        best = max(self.captions, key=lambda window: window.overlap(start_frame, num_frames), default=None)
        return self.caption if best is None or not best.overlap(start_frame, num_frames) else best.text

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with cameras, actions, states and trajectory; see `cosmos_data.manifests.conditions`."""
        for number, view in enumerate((self, *self.views)):
            if view.camera is not None:
                where = f"view {view.view or number}: " if self.views else ""
                yield from (where + fault for fault in view.camera.faults(self.num_frames))
        yield from signal_faults(self.action, self.state, self.ego_trajectory, self.num_frames, self.fps)

    def _of(self, pictures: Pictures) -> "Clip":
        return replace(self, views=(), **{field.name: getattr(pictures, field.name) for field in fields(Pictures)})


def clip_digest(file_sha256: str, *, start_frame: int, num_frames: int, treatment: str = "") -> str:
    """Return the identity of a clip's pixels: which bytes, which frames of them, and what is made of these."""
    of_pixels = f"{file_sha256}/{start_frame}+{num_frames}"
    return hashlib.sha256((f"{of_pixels}/{treatment}" if treatment else of_pixels).encode()).hexdigest()


def check_clip(clip: Clip, row: int) -> None:
    """Raise `DataError` naming row and column for the first value that no video can have."""

    def demand(holds: bool, column: str, value: object, rule: str) -> None:
        if not holds:
            raise DataError(f"manifest row {row}, column {column}: {value!r} is not {rule}; build the manifest again")

    demand(clip.clip_id != "", "clip_id", clip.clip_id, "a name")
    demand(clip.num_frames >= 1, "num_frames", clip.num_frames, "a positive count")
    demand(math.isfinite(clip.fps) and clip.fps > 0, "fps", clip.fps, "a positive number of frames per second")
    demand(math.isfinite(clip.duration_sec), "duration_sec", clip.duration_sec, "a number of seconds")
    demand(clip.split in get_args(Split), "split", clip.split, f"one of {', '.join(get_args(Split))}")
    if clip.labels_file is not None:
        is_path = Path(clip.labels_file.path).is_absolute() and "\0" not in clip.labels_file.path
        demand(
            is_path and _is_part(clip.labels_file),
            "labels_file",
            clip.labels_file,
            "an absolute path, and a place and a size or neither",
        )
    names = [pictures.view for pictures in (clip, *clip.views)]
    demand(len(set(names)) == len(names), "views", names, "a list of views with different names")
    for pictures in (clip, *clip.views):
        demand(Path(pictures.path).is_absolute(), "path", pictures.path, "an absolute path")
        demand("\0" not in pictures.path, "path", pictures.path, "a path")
        part = (pictures.offset_bytes, pictures.size_bytes)
        demand(_is_part(pictures.file), "offset_bytes", part, "a place and a size, or neither")
        demand(pictures.start_frame >= 0, "start_frame", pictures.start_frame, "a frame number")
        demand(pictures.height_px >= 1, "height_px", pictures.height_px, "a positive count")
        demand(pictures.width_px >= 1, "width_px", pictures.width_px, "a positive count")
        demand(pictures.rotation_deg in (0, 90, 180, 270), "rotation_deg", pictures.rotation_deg, "0, 90, 180 or 270")
        aspect = re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", pictures.pixel_aspect)
        demand(aspect is not None, "pixel_aspect", pictures.pixel_aspect, "a ratio such as 4:3")
        is_colour = re.fullmatch("(?:[0-9a-fA-F]{6})?", pictures.background)
        demand(is_colour is not None, "background", pictures.background, "six hexadecimal digits, or empty")
        index = pictures.stream_index
        demand(index is None or index >= 0, "stream_index", index, "the place of a stream")
        demand(pictures.codec != "", "codec", pictures.codec, "the name of a codec")
        demand(pictures.color_matrix != "", "color_matrix", pictures.color_matrix, "the name of a colour matrix")
        demand(pictures.seek in get_args(Seek), "seek", pictures.seek, f"one of {', '.join(get_args(Seek))}")
        stamped = (pictures.first_pts is not None) == (pictures.seek == "rate")
        demand(stamped, "first_pts", pictures.first_pts, f"what seek={pictures.seek} needs")
        sha256 = re.fullmatch("[0-9a-f]{64}", pictures.digest)
        demand(sha256 is not None, "digest", pictures.digest, "a sha256 in hexadecimal")


def _is_part(file: VideoFile) -> bool:
    """Tell whether a place and a size are given, or neither, which is a whole file."""
    part = (file.offset_bytes, file.size_bytes)
    return part == (None, None) or (None not in part and min(part) >= 0)  # pyright: ignore[reportArgumentType]
