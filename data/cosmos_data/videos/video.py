"""What PyAV is needed for: probing a video by really decoding it, and reading exact frames out of it.

Frame k of a file is, by definition, the k-th frame that its decoder gives out when the whole file is decoded. The
probe decodes every frame once, because headers and packet counts lie about damaged files, and learns how frames are
found again (`Pictures.seek`); `read_frames` then seeks to the key frame before the first wanted frame and decodes
forward, without the pictures on the way that no other one is made of, to the last packet that a wanted one needs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from cosmos_data.contents import look_at
from cosmos_data.errors import ClipError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Clip, Seek
from cosmos_data.sample_plan.window import Box
from cosmos_data.videos.cut_off import missing_end
from cosmos_data.videos.opened import BadVideoError, OpenVideo, OpenVideos, open_best_video, open_container, open_video
from cosmos_data.videos.shots import ShotDetector
from cosmos_data.videos.shown import (
    ACCURATE,
    AS_STORED,
    Meaning,
    Orientation,
    Rules,
    Show,
    Treatment,
    deinterlaced,
    filter_graph,
    orientation_of,
    plane_pixels,
    treatment_of,
    upright,
)

# AVColorSpace of FFmpeg. 2 is "unspecified", which swscale and DALI both read as BT.601.
COLOR_MATRICES = {0: "rgb", 1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}

# Of these swscale makes colours as if they were BT.601.
UNREAD_MATRICES = {8: "YCgCo", 11: "SMPTE 2085", 12: "derived", 13: "derived", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo"}
UNREAD_MATRICES |= {17: "YCgCo"}
# These keep pictures back until they know that none is to be shown before, and have a packet for each.
REORDERING_DECODERS = frozenset({"h264", "hevc"})
# How far from a pixel its chroma lies at most; up to which share of a picture it pays to cut a part out; and from which
# size on: swscale interpolates no chroma of three samples a line or column.
CHROMA_MARGIN_PX, LARGEST_PART, SMALLEST_PART_PX = 2, 0.8, 16
UNSPECIFIED = 2
"""Of FFmpeg's matrices, transfers and primaries; one that is set later than the first frame changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """A whole file holds this; see `Clip` and `Pictures` for the fields of the same names."""

    num_frames: int
    fps: float
    duration_sec: float
    stream_index: int | None
    meaning: Meaning
    treatment: Treatment
    codec: str
    pixel_format: str
    color_matrix: str
    seek: Seek
    first_pts: int | None
    container: str
    """FFmpeg's names of the file's format, such as `mov,mp4,m4a,3gp,3g2,mj2`."""

    cuts: tuple[int, ...]
    """Frames that begin a new shot (cosmos_data.videos.shots)."""

    @property
    def height_px(self) -> int:
        """Return the height of the picture as it is shown."""
        return self.treatment.height_px

    @property
    def width_px(self) -> int:
        """Return the width of the picture as it is shown."""
        return self.treatment.width_px

    def pictures(self) -> dict[str, Any]:
        """Return the columns of a manifest that say how the file's pictures are read."""
        names = ("stream_index", "codec", "pixel_format", "color_matrix", "seek", "first_pts")
        own = {name: getattr(self, name) for name in names}
        return own | asdict(self.meaning) | self.treatment._asdict()


def probe_video(file: str | Path | VideoFile, rules: Rules | None = None) -> VideoInfo:
    """Decode the whole file.

    Args:
        rules: what is made of pictures that are not plain ones; none: the defaults.

    Raises `BadVideoError` where it is damaged, cut off, refused by a rule or holds no frames.

    Two kinds of damage cannot be seen: bytes that still decode (H.264 and VP9 carry no checksums), and the missing end
    of a file whose format announces neither frames nor bytes, such as a WebM file that was written as it went out.
    """
    stamps: list[int | None] = []
    packets: list[_Packet] = []
    shots = ShotDetector()
    colours, frame, is_interlaced = _Colours(), None, False
    file = as_file(file)
    try:
        content = look_at(file)
        if content.kind not in ("video", "unknown"):  # what is unknown may be a damaged video
            raise BadVideoError(f"it is {content.what}")
        (container, stream, decoder), stream_index = open_best_video(file)
        with container:
            for packet in container.demux(stream):
                packets.append(_Packet.of(packet))
                for frame in decoder.decode(packet):
                    _check_frame(frame, stream.width, stream.height, len(stamps))
                    colours.add((int(frame.color_trc), int(frame.colorspace)), len(stamps))
                    shots.add(frame)
                    stamps.append(frame.pts)
                    is_interlaced |= frame.interlaced_frame
            if frame is None:
                raise BadVideoError("it holds no frames")
            num_packets = sum(packet.has_bytes for packet in packets)
            # A format that announces no frames, as Matroska does, says 0.
            is_less = stream.frames == 0 or num_packets < stream.frames
            if is_less and (missing := _missing(file, stream, container.format.name)):
                announced = f"of the {stream.frames} frames it announces" if stream.frames else "frames"
                raise BadVideoError(f"it is cut off: {num_packets} {announced} are there, and {missing}")
            time_base = stream.time_base or Fraction(1, 1)
            seek, fps = _how_to_seek(stamps, _packet_stamps(packets), stream.average_rate, time_base)
            duration_sec = _duration_sec(stamps, time_base) if seek == "stamps" else len(stamps) / fps
            field_order = "interlaced" if is_interlaced else "progressive"
            meaning = Meaning.of(frame, stream.sample_aspect_ratio, field_order=field_order)
            return VideoInfo(
                num_frames=len(stamps),
                fps=len(stamps) / duration_sec if seek == "stamps" else fps,
                duration_sec=duration_sec,
                stream_index=stream_index,
                meaning=meaning,
                treatment=treatment_of(meaning, stream.height, stream.width, rules or Rules()),
                codec=stream.codec.canonical_name,  # of AV1 the codec, not dav1d, its decoder
                pixel_format=frame.format.name,
                color_matrix=COLOR_MATRICES.get(int(frame.colorspace), "other"),
                seek=seek,
                first_pts=stamps[0] if seek == "rate" else None,
                container=container.format.name,
                cuts=shots.cuts(),
            )
    except av.error.FFmpegError as error:
        raise BadVideoError(f"it cannot be decoded after frame {len(stamps)} ({error.strerror})") from error
    except OSError as error:
        raise BadVideoError(f"it cannot be read ({error.strerror})") from error


def as_file(file: str | Path | VideoFile) -> VideoFile:
    """Return the file that is meant: a path means the file as a whole."""
    return file if isinstance(file, VideoFile) else VideoFile(str(file))


def _check_frame(frame: av.VideoFrame, width_px: int, height_px: int, number: int) -> None:
    if frame.is_corrupt:
        raise BadVideoError(f"frame {number} is damaged")
    if (frame.width, frame.height) != (width_px, height_px):
        raise BadVideoError(f"its size changes from {width_px}x{height_px} to {frame.width}x{frame.height} px")


class _Colours:
    """What the numbers in the pictures mean, which must be the same in all of them."""

    def __init__(self) -> None:
        self._seen: list[int] = [UNSPECIFIED, UNSPECIFIED]

    def add(self, transfer_and_matrix: tuple[int, int], number: int) -> None:
        """Raises BadVideoError where a frame's differ from those before, or can not be read."""
        for place, (what, value) in enumerate(zip(("transfer curve", "matrix"), transfer_and_matrix, strict=True)):
            if value == UNSPECIFIED:
                continue
            if self._seen[place] not in (UNSPECIFIED, value):
                raise BadVideoError(f"its {what} changes at frame {number}; cut it in two there, or encode it again")
            self._seen[place] = value
        if name := UNREAD_MATRICES.get(transfer_and_matrix[1]):
            raise BadVideoError(f"its colour matrix ({name}) is not read here; encode it again with BT.709")


def _missing(file: VideoFile, stream: VideoStream, container: str) -> str | None:
    """Say what shows that a file which gives fewer frames than it announces was cut off; None where it was not.

    An edit list leaves frames out, and an AVI file's header may announce any number.
    """
    if (end := missing_end(file, container)) is not None:
        return end
    if not container.startswith("mov,"):
        return None
    with open_container(file, {"ignore_editlist": "1"}) as whole:
        [same] = [other for other in whole.streams.video if other.index == stream.index]
        num_packets = sum(packet.size > 0 for packet in whole.demux(same))
    return None if num_packets >= same.frames else f"{same.frames - num_packets} are nowhere in it"


def _how_to_seek(
    stamps: Sequence[int | None], packet_stamps: Sequence[int] | None, rate: Fraction | None, time_base: Fraction
) -> tuple[Seek, float]:
    """Return (how frames are found, frames per second as the file says them)."""
    if rate is None or rate <= 0:
        raise BadVideoError("it does not say its frame rate")
    fps, first = float(rate), stamps[0]
    if first is not None:
        numbers = [None if pts is None else frame_number(pts, first, fps, float(time_base)) for pts in stamps]
        if numbers == list(range(len(stamps))):
            return "rate", fps
    # The packets' stamps tell frames without decoding, where they are those of the frames.
    return ("stamps" if packet_stamps == list(stamps) else "count"), fps


def _duration_sec(stamps: Sequence[int | None], time_base: Fraction) -> float:
    """Return how long it is. The last frame is taken to be shown as long as the others on average."""
    known = [pts for pts in stamps if pts is not None]
    span = (known[-1] - known[0]) * float(time_base)
    return span * len(known) / max(1, len(known) - 1) if span else len(known) * float(time_base)


def frame_number(pts: int, first_pts: int, fps: float, time_base: float) -> int:
    """Return the number of the frame with time stamp `pts`, counted from the file's first frame."""
    return round((pts - first_pts) * time_base * fps)


class _Packet(NamedTuple):
    """What is kept of a packet."""

    pts: int | None
    has_bytes: bool
    is_shown: bool

    @classmethod
    def of(cls, packet: av.Packet) -> "_Packet":
        return cls(packet.pts, packet.size > 0, packet.size > 0 and not packet.is_discard)


def _packet_stamps(packets: Sequence[_Packet]) -> list[int] | None:
    """Return stamps of the frames in the order in which they are shown; None where they do not tell frames apart."""
    shown = [packet.pts for packet in packets if packet.is_shown]
    known = sorted(pts for pts in shown if pts is not None)
    if len(known) < len(shown) or any(early == late for early, late in pairwise(known)):
        return None
    return known


@lru_cache(maxsize=64)
def _stamp_table(file: VideoFile, stream_index: int | None) -> list[int] | None:
    """Return the stamps of a whole file, read without decoding."""
    container, stream, _ = open_video(file, stream_index)
    with container:
        return _packet_stamps([_Packet.of(packet) for packet in container.demux(stream)])


def read_frames(
    clip: Clip, *, start_frame: int, num_frames: int, frame_stride: int = 1, videos: OpenVideos | None = None
) -> Iterator[av.VideoFrame]:
    """Read `num_frames` frames: start_frame, start_frame + frame_stride ..., counted from the file's first frame.

    They are treated as the manifest says (`Pictures.treatment`); RgbConverter then turns them upright.

    videos: where the file is kept open for the next window.
    Raises `ClipError` where the file is missing, damaged or shorter.
    """
    videos, show = videos or OpenVideos(max_bytes=0), Show(clip)
    wanted = range(start_frame, start_frame + num_frames * frame_stride, frame_stride)
    frames = _deinterlaced(clip, wanted, videos) if clip.is_deinterlaced else _exact_frames(clip, wanted, videos)
    yield from map(show, frames)


def _deinterlaced(clip: Clip, wanted: range, videos: OpenVideos) -> Iterator[av.VideoFrame]:
    """Deinterlace each frame with the one before and the one after it, so that windows do not change it."""
    first = max(0, wanted.start - 1)
    around = _exact_frames(clip, range(first, wanted[-1] + 2), videos, may_end_early=True)
    found = 0
    for number, frame in enumerate(deinterlaced(around), start=first):
        if number == wanted[found]:
            found += 1
            yield frame
            if found == len(wanted):
                return
    raise ClipError(f"{clip.path} ends before frame {wanted[found]}")


def _exact_frames(
    clip: Clip, wanted: range, videos: OpenVideos, *, may_end_early: bool = False
) -> Iterator[av.VideoFrame]:
    """Yield the frames of these numbers as they are stored."""
    found = 0
    try:
        for number, frame in _numbered_frames(clip, wanted, videos):
            if frame.is_corrupt:
                raise ClipError(f"{clip.path}: frame {number} is damaged")
            if number > wanted[found]:
                raise ClipError(f"{clip.path}: frame {wanted[found]} is missing")
            if number == wanted[found]:
                found += 1
                yield frame
                if found == len(wanted):
                    return
    except av.error.FFmpegError as error:
        raise ClipError(f"{clip.path} cannot be decoded near frame {wanted.start} ({error.strerror})") from error
    except BadVideoError as error:
        raise ClipError(f"{clip.path}: {error}") from error
    if not may_end_early:
        raise ClipError(f"{clip.path} ends before frame {wanted[found]}")


def _numbered_frames(clip: Clip, wanted: range, videos: OpenVideos) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) from the first wanted one or one before it on, up to the last wanted one or further."""
    if clip.seek != "count":
        frames = _frames_from_key(clip, wanted, videos)
        try:
            first = next((found for found in frames if found[0] >= wanted.start), None)
        except av.error.FFmpegError:
            # After the key frame of an open group come pictures that lean on the group before. Damage shows below.
            first = None
        # A container whose index overshoots lands too late: count from the start then.
        if first is not None and first[0] == wanted.start:
            yield first
            yield from frames
            return
    video = open_video(clip.file, clip.stream_index)
    with video.container:
        yield from enumerate(video.frames())


def _frames_from_key(clip: Clip, wanted: range, videos: OpenVideos) -> Iterator[tuple[int, av.VideoFrame]]:
    table = _stamp_table(clip.file, clip.stream_index) if clip.seek == "stamps" else None
    if clip.seek == "stamps" and (table is None or wanted.start >= len(table)):
        raise ClipError(f"{clip.path} ends before frame {wanted.start}, or was changed since the manifest was built")
    with videos.borrow(clip.file, clip.stream_index) as video:
        if table is not None:
            number_at = {pts: number for number, pts in enumerate(table)}.get
            target = table[wanted.start]
        else:
            assert clip.first_pts is not None, "check_clip demands it of seek=rate"
            time_base = video.stream.time_base or Fraction(1, 1)
            number_at = partial(frame_number, first_pts=clip.first_pts, fps=clip.fps, time_base=float(time_base))
            # Half a frame late, so that rounding never misses a key frame that is itself the wanted one.
            target = clip.first_pts + int((wanted.start + 0.5) / (clip.fps * float(time_base)))
        video.seek(target)
        # Two fields of a picture may come in packets of their own.
        sent = _Sent(wanted[-1]) if clip.field_order == "progressive" else None
        for pts, frame in _from_key_on(video, wanted, number_at, sent):
            if pts is None:
                raise ClipError(f"{clip.path}: a frame near {wanted.start} has no time stamp")
            if (number := number_at(pts)) is None:
                raise ClipError(f"{clip.path}: a frame near {wanted.start} has a stamp that no packet has")
            yield number, frame


def _from_key_on(
    video: OpenVideo, wanted: range, number_at: Callable[[int], int | None], sent: "_Sent | None"
) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """(time stamp, frame) from the key frame on that was sought, without those that are shown before it: they may be
    wrong. Of those that are not wanted only what others are made of, and no picture is decoded after the last one
    that can make a wanted frame."""
    key_pts, context = None, video.decoder
    # In H.264 a picture that is no reference is none for any other; elsewhere it may be for pictures of higher layers.
    may_skip = context.name == "h264"
    is_skipping = False
    context.skip_frame = "DEFAULT"
    if context.name not in REORDERING_DECODERS:
        sent = None
    for packet in video.container.demux(video.stream):
        pts = packet.pts
        number = None if pts is None else number_at(pts)
        if key_pts is None:
            key_pts = pts
        is_unused = may_skip and number is not None and number not in wanted
        if is_unused != is_skipping:
            is_skipping = is_unused
            context.skip_frame = "NONREF" if is_skipping else "DEFAULT"
        for frame in context.decode(packet):
            shown_pts = frame.pts
            if key_pts is None or shown_pts is None or shown_pts >= key_pts:
                yield shown_pts, frame
        # Whoever asks goes no further than the last wanted frame: here the decoder has kept that back so far.
        if sent is not None and sent.holds_all_with(packet, number):
            for frame in context.decode(None):
                frame.time_base = packet.time_base  # else it has none, for want of a packet
                if key_pts is None or frame.pts is None or frame.pts >= key_pts:
                    yield frame.pts, frame
            return


class _Sent:
    """Which pictures a decoder has been given since the key frame: with all up to the last wanted one it needs no more,
    though it keeps pictures back for others that may come out before them."""

    def __init__(self, last: int) -> None:
        self._last, self._first = last, -1
        self._numbers: set[int] = set()
        self._is_plain = True

    def holds_all_with(self, packet: av.Packet, number: int | None) -> bool:
        """Tell whether it does; never where a packet is no whole picture of its own."""
        if number is None or number in self._numbers or packet.is_discard:
            self._is_plain = False
            return False
        if self._first < 0:
            self._first = number
        if self._first <= number <= self._last:
            self._numbers.add(number)
        return self._is_plain and len(self._numbers) == self._last - self._first + 1


class RgbConverter:
    """It turns frames into uint8 RGB arrays, upright, and keeps its tables between them; each thread has its own."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._cutter: Graph | None = None
        self._cut_by: tuple[Any, ...] = ()
        """Size and meaning of the frames that it takes, and the part that it leaves of them."""

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Give [height_px, width_px, 3], in memory one colour after the other, as torch wants it."""
        return np.stack(self.colours(frame)).transpose(1, 2, 0)

    def colours(
        self, frame: av.VideoFrame, orientation: Orientation | None = None, box: Box | None = None
    ) -> list[np.ndarray]:
        """Give red, green and blue, each [height_px, width_px], where swscale has put them: that takes it two thirds of
        the time that it needs for pixels.

        orientation: of the whole file, where the caller knows it; None: it is asked of the frame. A frame whose side
        data was looked at is freed by Python's garbage collector alone, and later ones then lie in cold memory.
        box: the part of the upright picture that is wanted, which has the same colours; None: all of it.
        """
        orientation = orientation or orientation_of(frame)
        part = None if box is None or orientation != AS_STORED else part_around(box, frame)
        if box is not None and part is not None:
            frame = self._cut(frame, part)
            box = replace(box, top_px=box.top_px - part.top_px, left_px=box.left_px - part.left_px)
        planar = self._reformatter.reformat(frame, format="gbrp", interpolation=ACCURATE, threads=1)
        green, blue, red = (upright(plane_pixels(plane), orientation) for plane in planar.planes)
        colours = [red, green, blue]
        return colours if box is None else [colour[box.rows, box.columns] for colour in colours]

    def _cut(self, frame: av.VideoFrame, part: Box) -> av.VideoFrame:
        """Cut into memory of its own: of rows that lie far apart swscale takes twice the time."""
        cut_by = frame.width, frame.height, int(frame.colorspace), int(frame.color_range), part
        if self._cutter is None or self._cut_by != cut_by:
            crop = f"{part.width_px}:{part.height_px}:{part.left_px}:{part.top_px}"
            self._cutter, self._cut_by = filter_graph(frame, {"crop": crop, "copy": ""}), cut_by
        self._cutter.push(frame)
        cut = self._cutter.pull()
        assert isinstance(cut, av.VideoFrame)
        return cut


def part_around(box: Box, frame: av.VideoFrame) -> Box | None:
    """Find the part of a stored picture in which the box has the colours that it has in all of it, though chroma is
    interpolated; None where no such part is known that is much less than the picture."""
    if frame.format.name != "yuv420p" or frame.width % 2 or frame.height % 2 or frame.interlaced_frame:
        return None
    top_px, left_px = (max(0, place - CHROMA_MARGIN_PX) // 2 * 2 for place in (box.top_px, box.left_px))
    bottom_px = min(frame.height, box.rows.stop + CHROMA_MARGIN_PX + 1) // 2 * 2
    right_px = min(frame.width, box.columns.stop + CHROMA_MARGIN_PX + 1) // 2 * 2
    part = Box(top_px=top_px, left_px=left_px, height_px=bottom_px - top_px, width_px=right_px - left_px)
    is_small = part.height_px * part.width_px < LARGEST_PART * frame.height * frame.width
    return part if is_small and min(part.height_px, part.width_px) >= SMALLEST_PART_PX else None
