"""Frames that lie as pictures become a video file, so that all that reads videos reads them.

JPEG and PNG pictures are not coded again: their bytes are the packets of an AVI file, every frame a key frame, and what
a decoder gives out is what the pictures hold. Pictures of other kinds (16 bits, transparent, turned by EXIF, WebP) are
made plain ones and stored as PNG, which loses nothing. The same pictures give the same bytes.
"""

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from cosmos_data.videos.opened import BadVideoError
from cosmos_data.videos.pictures import FORMATS, rgb_of
from cosmos_data.whole_file import whole_file

EXIF_ORIENTATION = 0x0112
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "png": "rgb24"}
"""What the header is written for; a decoder takes it from each picture."""

SUFFIX = ".avi"


class _Stored(NamedTuple):
    """A picture as the file holds it."""

    codec: str
    width_px: int
    height_px: int
    content: bytes


def gather(pictures: Iterable[bytes], path: Path, fps: float) -> None:
    """Write a video file of the bytes of picture files; it is complete or absent.

    Raises:
        BadVideoError: there is none, one is damaged, or one has another size or kind than the first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)  # 30000/1001 stays what it is
    first: _Stored | None = None
    stream: VideoStream | None = None
    with whole_file(path) as aside, av.open(str(aside), "w", format="avi", options={"fflags": "+bitexact"}) as out:
        for number, content in enumerate(pictures):
            stored = _stored(content, number)
            if first is None or stream is None:
                first, stream = stored, _add_stream(out, stored, rate)
            if stored[:3] != first[:3]:
                said = [f"{one.width_px}x{one.height_px} px, to be stored as {one.codec}" for one in (stored, first)]
                raise BadVideoError(f"picture {number} has {said[0]}, the first {said[1]}; make them alike")
            packet = av.Packet(stored.content)
            packet.pts = packet.dts = number
            packet.time_base, packet.duration = 1 / rate, 1
            packet.stream, packet.is_keyframe = stream, True
            out.mux(packet)
        if first is None:
            raise BadVideoError("it has no pictures")


def _add_stream(out: OutputContainer, first: _Stored, rate: Fraction) -> VideoStream:
    stream = out.add_stream(first.codec, rate=rate)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = first.width_px, first.height_px, PIXEL_FORMATS[first.codec]
    return stream


def _stored(content: bytes, number: int) -> _Stored:
    """Decide by the picture's header whether its bytes stay as they are."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        is_upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
        if image.mode == "RGB" and is_upright and not image.has_transparency_data and image.format in ("JPEG", "PNG"):
            return _Stored("mjpeg" if image.format == "JPEG" else "png", *image.size, content)
        plain = Image.fromarray(rgb_of(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadVideoError(f"picture {number} can not be read ({error}); save it again as PNG") from error
    coded = io.BytesIO()
    plain.save(coded, "PNG")
    return _Stored("png", *plain.size, coded.getvalue())
