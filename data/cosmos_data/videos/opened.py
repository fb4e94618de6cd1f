"""Video files while they are open: how they are opened, and keeping some of them open between windows.

FFmpeg looks what is in a file that it opens: it decodes the first key frame, which takes as long as several frames of a
window. Where the container says it all in its header, reading does without.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from cosmos_data.location import VideoFile

# What a decoder holds at most: H.264's 16 reference pictures and those in the making, at 2 bytes a sample of 4:2:0.
BYTES_PER_PIXEL = 20 * 3
# A process may have 1,024 files open where nobody has asked for more.
MAX_OPEN_FILES = 256

# Header and index say which streams there are, and every packet has its stamp.
TELLING_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
# No codec may be tried on what is in the file, and nothing is read for that.
NO_LOOK = {"codec_whitelist": "none", "probesize": "32"}

# What FFmpeg calls the formats that are opened. Others are not, since some of them are texts that name other files
# (ffconcat, HLS, playlists), whose pixels would change while the file's digest stays.
FORMATS = (
    "asf", "av1", "avi", "dv", "flv", "gif", "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mpeg", "mpegts",
    "mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "wtv", "yuv4mpegpipe",
)  # fmt: skip
ALLOWED = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file,subfile"}
# How the ffmpeg program weighs streams where none is asked for: pixels, more for one that is marked as default, and
# more yet for one that has a packet in the bytes that it looks at first.
PACKETS_SCORE, DEFAULT_SCORE, COVER_SCORE = 100_000_000, 5_000_000, 1
PROBED_BYTES = 5_000_000
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class BadVideoError(ValueError):
    """A file that gives no clips; the message is the reason, without the file's name."""


class OpenVideo(NamedTuple):
    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext
    """The stream's own, but for VP8 and VP9 with transparency, which FFmpeg's own decoders leave out."""

    @property
    def num_bytes(self) -> int:
        """Return how much memory it holds at most."""
        return BYTES_PER_PIXEL * self.stream.width * self.stream.height

    def seek(self, pts: int) -> None:
        """Go to the key frame at or before a time stamp."""
        self.container.seek(pts, stream=self.stream, backward=True)
        self.decoder.flush_buffers()

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode from here on."""
        for packet in self.container.demux(self.stream):
            yield from self.decoder.decode(packet)


def open_container(file: VideoFile, options: dict[str, str] | None = None) -> InputContainer:
    """Open a file of one of FORMATS. To be closed by the caller.

    Raises:
        BadVideoError: it is of another format.
        OSError, av.error.FFmpegError: it is missing, or damaged.
    """
    try:
        return av.open(file.url, options=ALLOWED | (options or {}))
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not on the list
        raise BadVideoError(f"it is no video of a format that is read here ({', '.join(FORMATS)})") from error


def open_video(file: VideoFile, stream_index: int | None = None) -> OpenVideo:
    """Open with a look at what is in it. To be closed by the caller.

    Args:
        stream_index: place among all streams of the file; None: its first video stream.

    Raises `BadVideoError` where there is no such stream in it, and PyAV's errors.
    """
    return _with_stream(open_container(file), stream_index)


def open_video_quickly(file: VideoFile, stream_index: int | None = None) -> OpenVideo:
    """Open without that look, where the header says enough; the same frames come out."""
    container = open_container(file, NO_LOOK)
    if container.format.name in TELLING_FORMATS:
        return _with_stream(container, stream_index)
    container.close()
    return open_video(file, stream_index)


def open_best_video(file: VideoFile) -> tuple[OpenVideo, int | None]:
    """Return (the video that the ffmpeg program would show, its stream's index; None where it is the only one).

    Covers and previews are video streams too, and often the first. Raises as open_video does.
    """
    container = open_container(file)
    streams = container.streams.video
    if len(streams) <= 1:
        return _with_stream(container, None), None
    with_packets = _with_packets(file)
    best = max(streams, key=lambda stream: _score(stream, with_packets))  # the first of equal ones
    return _with_stream(container, best.index), best.index


def _with_packets(file: VideoFile) -> set[int]:
    """Return indices of the streams that have a packet near the file's beginning."""
    found, num_bytes = set[int](), 0
    with open_container(file) as container:
        waiting = {stream.index for stream in container.streams.video}
        for packet in container.demux(container.streams.video):
            if packet.size:
                found.add(packet.stream_index)
                num_bytes += packet.size
            if waiting <= found or num_bytes > PROBED_BYTES:
                break
    return found


def _score(stream: VideoStream, with_packets: set[int]) -> int:
    if Disposition.attached_pic in stream.disposition or Disposition.timed_thumbnails in stream.disposition:
        return COVER_SCORE
    is_default = Disposition.default in stream.disposition
    has_packets = stream.index in with_packets
    return stream.width * stream.height + DEFAULT_SCORE * is_default + PACKETS_SCORE * has_packets


def _with_stream(container: InputContainer, stream_index: int | None) -> OpenVideo:
    streams = [stream for stream in container.streams.video if stream_index in (None, stream.index)]
    if not streams:
        container.close()
        which = "" if stream_index is None else f" {stream_index}"
        raise BadVideoError(f"it has no video stream{which}")
    stream = streams[0]
    decoder = _decoder_of(stream)
    # One thread: callers decode several files at a time instead, and damage then looks the same on every machine.
    decoder.thread_count = 1
    # Without it damaged pictures are patched up and given out as if nothing were wrong.
    decoder.options = {"err_detect": "explode"}
    return OpenVideo(container, stream, decoder)


def _decoder_of(stream: VideoStream) -> VideoCodecContext:
    own = stream.codec_context
    # WebM keeps transparency beside the pictures and says so (https://wiki.webmproject.org/alpha-channel).
    # A track's own field becomes alpha_mode; the tag that FFmpeg writes when it copies into Matroska is ALPHA_MODE.
    said = {name.lower(): value for name, value in stream.metadata.items()}
    if said.get("alpha_mode") != "1" or own.name not in ALPHA_DECODERS:
        return own
    decoder = av.CodecContext.create(ALPHA_DECODERS[own.name], "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = own.extradata
    return decoder


Key = tuple[int, VideoFile, int | None]
"""Process, file, stream."""


class OpenVideos:
    """Files that are kept open after their use, the least recently used closed first where they would hold more than
    `max_bytes`, or be more than MAX_OPEN_FILES. For any number of threads: a file that is in use is opened once more
    for another thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._idle: OrderedDict[Key, OpenVideo] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def borrow(self, file: VideoFile, stream_index: int | None = None) -> Iterator[OpenVideo]:
        """Yield an open video, at any place in the file: seek first. After an error inside it is closed."""
        # Of this process: a file that was open before a fork shares its position with the other side.
        key = os.getpid(), file, stream_index
        with self._lock:
            video = self._idle.pop(key, None)
        video = video or open_video_quickly(file, stream_index)
        try:
            yield video
        except GeneratorExit:  # whoever read frames has enough of them
            self._keep(key, video)
            raise
        except BaseException:  # an interrupted decoder too is in no state to be kept
            video.container.close()
            raise
        self._keep(key, video)

    def _keep(self, key: Key, video: OpenVideo) -> None:
        with self._lock:
            another = self._idle.pop(key, None)
            self._idle[key] = video
            surplus = [] if another is None else [another]
            while (
                len(self._idle) > MAX_OPEN_FILES
                or sum(idle.num_bytes for idle in self._idle.values()) > self._max_bytes
            ):
                surplus.append(self._idle.popitem(last=False)[1])
        for one in surplus:
            one.container.close()
