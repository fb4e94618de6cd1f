"""What PyAV is needed for: probing a video by really decoding it, and reading exact frames out of it.

Frame k of a file is, by definition, the k-th frame that its decoder gives out when the whole file is decoded. The
probe decodes every frame once, because headers and packet counts lie about damaged files, and learns whether time
stamps find frames; `read_frames` then seeks to the key frame before the first wanted frame and decodes forward.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from cosmos_data.errors import ClipError
from cosmos_data.manifest import Clip

# AVColorSpace of FFmpeg. 2 is "unspecified", which swscale and DALI both read as BT.601.
COLOR_MATRICES = {0: "rgb", 1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}

# Chroma interpolated and rounded to nearest: within half a level of the formula (the default is up to 11 levels off
# and 1.3 too dark on average), and bit for bit what DALI's CPU decoder computes.
ACCURATE = (
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


class BadVideoError(ValueError):
    """A file that gives no clips; the message is the reason, without the file's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    codec: str
    color_matrix: str
    num_frames: int
    fps: float
    height_px: int
    width_px: int
    first_pts: int | None
    """See `Clip.first_pts`."""


def probe_video(path: str | Path) -> VideoInfo:
    """Decodes the whole file. Raises `BadVideoError` where it is damaged, cut off or holds no frames.

    Two kinds of damage cannot be seen: bytes that still decode (H.264 and VP9 carry no checksums), and the missing end
    of a WebM file, which does not say how many frames it had.
    """
    stamps: list[int | None] = []
    num_packets = 0
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container)
            matrix = "bt601"
            for packet in container.demux(stream):
                num_packets += packet.size > 0
                for frame in packet.decode():
                    _check_frame(frame, stream.width, stream.height, len(stamps))
                    matrix = COLOR_MATRICES.get(int(frame.colorspace), "other")
                    stamps.append(frame.pts)
            if not stamps:
                raise BadVideoError("it holds no frames")
            if num_packets < stream.frames:
                raise BadVideoError(
                    f"it is cut off: {num_packets} of the {stream.frames} frames it announces are there"
                )
            fps, first_pts = _frame_rate(stamps, stream.average_rate, stream.time_base)
            return VideoInfo(
                codec=stream.codec_context.name,
                color_matrix=matrix,
                num_frames=len(stamps),
                fps=fps,
                height_px=stream.height,
                width_px=stream.width,
                first_pts=first_pts,
            )
    except av.error.FFmpegError as error:
        raise BadVideoError(f"it cannot be decoded after frame {len(stamps)} ({error.strerror})") from error


def _check_frame(frame: av.VideoFrame, width_px: int, height_px: int, number: int) -> None:
    if frame.is_corrupt:
        raise BadVideoError(f"frame {number} is damaged")
    if (frame.width, frame.height) != (width_px, height_px):
        raise BadVideoError(f"its size changes from {width_px}x{height_px} to {frame.width}x{frame.height} px")
    if frame.rotation:
        raise BadVideoError(f"it is to be shown rotated by {frame.rotation} degrees; rotate its pixels first")


def _frame_rate(
    stamps: list[int | None], rate: Fraction | None, time_base: Fraction | None
) -> tuple[float, int | None]:
    """(frames per second, first_pts or None): whether a constant rate numbers every frame as it was counted."""
    if rate is None or time_base is None:
        raise BadVideoError("it does not say its frame rate")
    first = stamps[0]
    if first is not None:
        numbers = [None if pts is None else frame_number(pts, first, float(rate), time_base) for pts in stamps]
        if numbers == list(range(len(stamps))):
            return float(rate), first
    return float(rate), None


def frame_number(pts: int, first_pts: int, fps: float, time_base: Fraction) -> int:
    """Number of the frame with time stamp `pts`, counted from the file's first frame."""
    return round((pts - first_pts) * float(time_base) * fps)


def read_frames(clip: Clip, *, start_frame: int, num_frames: int, frame_stride: int = 1) -> Iterator[av.VideoFrame]:
    """Frames start_frame, start_frame + frame_stride ... (counted from the file's first frame), exactly `num_frames`.

    Raises `ClipError` where the file is missing, damaged or shorter.
    """
    wanted = range(start_frame, start_frame + num_frames * frame_stride, frame_stride)
    found = 0
    try:
        for number, frame in _numbered_frames(clip, start_frame):
            if frame.is_corrupt:
                raise ClipError(f"{clip.path}: frame {number} is damaged")
            if number > wanted[found]:
                raise ClipError(f"{clip.path}: frame {wanted[found]} is missing")
            if number == wanted[found]:
                found += 1
                yield frame
                if found == num_frames:
                    return
    except av.error.FFmpegError as error:
        raise ClipError(f"{clip.path} cannot be decoded near frame {start_frame} ({error.strerror})") from error
    except BadVideoError as error:
        raise ClipError(f"{clip.path}: {error}") from error
    raise ClipError(f"{clip.path} ends before frame {wanted[found]}")


def _numbered_frames(clip: Clip, start_frame: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) from a frame at or before `start_frame` on."""
    if clip.first_pts is not None:
        frames = _frames_from_key(clip, clip.first_pts, start_frame)
        first = next(frames, None)
        # A container whose index overshoots lands too late: count from the start then.
        if first is not None and first[0] <= start_frame:
            yield first
            yield from frames
            return
    with av.open(clip.path) as container:
        yield from enumerate(container.decode(_video_stream(container)))


def _frames_from_key(clip: Clip, first_pts: int, start_frame: int) -> Iterator[tuple[int, av.VideoFrame]]:
    with av.open(clip.path) as container:
        stream = _video_stream(container)
        time_base = stream.time_base or Fraction(1, 1)
        # Half a frame late, so that rounding never misses a key frame that is itself the wanted one.
        offset = int((start_frame + 0.5) / (clip.fps * float(time_base)))
        container.seek(first_pts + offset, stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is None:
                raise ClipError(f"{clip.path}: a frame near {start_frame} has no time stamp")
            yield frame_number(frame.pts, first_pts, clip.fps, time_base), frame


def _video_stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise BadVideoError("it has no video stream")
    stream = container.streams.video[0]
    # One thread: callers decode several files at a time instead, and damage then looks the same on every machine.
    stream.codec_context.thread_count = 1
    # Without it damaged pictures are patched up and given out as if nothing were wrong.
    stream.codec_context.options = {"err_detect": "explode"}
    return stream


class RgbConverter:
    """Frames to uint8 RGB arrays. Keeps its conversion tables between frames; one per thread."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """[height_px, width_px, 3]"""
        return self._reformatter.reformat(frame, format="rgb24", interpolation=ACCURATE, threads=1).to_ndarray()
