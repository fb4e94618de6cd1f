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
from av.container import InputContainer
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


class BadVideoError(ValueError):
    """A file that gives no clips; the message is the reason, without the file's name."""


class OpenVideo(NamedTuple):
    container: InputContainer
    stream: VideoStream

    @property
    def num_bytes(self) -> int:
        """What it holds at most."""
        return BYTES_PER_PIXEL * self.stream.width * self.stream.height


def open_video(file: VideoFile) -> OpenVideo:
    """With a look at what is in it. To be closed by the caller.

    Raises `BadVideoError` where there is no video in it, and PyAV's errors.
    """
    return _with_stream(av.open(file.url))


def open_video_quickly(file: VideoFile) -> OpenVideo:
    """Without that look, where the header says enough; the same frames come out."""
    container = av.open(file.url, options=NO_LOOK)
    if container.format.name in TELLING_FORMATS:
        return _with_stream(container)
    container.close()
    return open_video(file)


def _with_stream(container: InputContainer) -> OpenVideo:
    if not container.streams.video:
        container.close()
        raise BadVideoError("it has no video stream")
    stream = container.streams.video[0]
    # One thread: callers decode several files at a time instead, and damage then looks the same on every machine.
    stream.codec_context.thread_count = 1
    # Without it damaged pictures are patched up and given out as if nothing were wrong.
    stream.codec_context.options = {"err_detect": "explode"}
    return OpenVideo(container, stream)


class OpenVideos:
    """Files that are kept open after their use, the least recently used closed first where they would hold more than
    `max_bytes`, or be more than MAX_OPEN_FILES. For any number of threads: a file that is in use is opened once more
    for another thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._idle: OrderedDict[tuple[int, VideoFile], OpenVideo] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def borrow(self, file: VideoFile) -> Iterator[OpenVideo]:
        """At any place in the file: seek first. After an error inside it is closed."""
        # Of this process: a file that was open before a fork shares its position with the other side.
        key = os.getpid(), file
        with self._lock:
            video = self._idle.pop(key, None)
        video = video or open_video_quickly(file)
        try:
            yield video
        except GeneratorExit:  # whoever read frames has enough of them
            self._keep(key, video)
            raise
        except BaseException:  # an interrupted decoder too is in no state to be kept
            video.container.close()
            raise
        self._keep(key, video)

    def _keep(self, key: tuple[int, VideoFile], video: OpenVideo) -> None:
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
