"""Writing short video files whose frames are cheap to reach: small closed groups of pictures, BT.601 colours."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import torch
from av.container import OutputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from cosmos_data.decoders.transform import cut_and_scale
from cosmos_data.manifests.clip import Clip
from cosmos_data.sample_plan.window import Box
from cosmos_data.videos.video import RgbConverter, read_frames
from cosmos_data.videos.written_colours import Matrix, tag_colours, yuv_frame

PackCodec = Literal["mjpeg", "vp9", "h264"]
MATRIX: Matrix = "bt601"
"""Of any size, and tagged: DALI reads no other."""


@dataclass(frozen=True, slots=True)
class Encoding:
    encoder: str
    suffix: str
    pixel_format: str
    color_range: ColorRange
    options: Mapping[str, str]


ENCODINGS: dict[PackCodec, Encoding] = {
    # Quantiser 2 of 31: the finest that FFmpeg recommends; 1 costs half as much again.
    "mjpeg": Encoding("mjpeg", ".avi", "yuvj420p", ColorRange.JPEG, {"qmin": "2", "qmax": "2"}),
    # No lag: then there are no hidden reference frames, and every packet is a frame that is shown.
    "vp9": Encoding(
        "libvpx-vp9",
        ".webm",
        "yuv420p",
        ColorRange.MPEG,
        {
            "crf": "20",
            "b": "0",
            "lag-in-frames": "0",
            "deadline": "realtime",
            "cpu-used": "6",
        },
    ),
    # fastdecode (no arithmetic coding, no deblocking): decoded in 0.68 of the time, 7 % larger.
    "h264": Encoding(
        "libx264",
        ".mp4",
        "yuv420p",
        ColorRange.MPEG,
        {"crf": "16", "sc_threshold": "0", "bf": "0", "preset": "veryfast", "tune": "fastdecode"},
    ),
}


def encode_clip(
    clip: Clip, box: Box, path: Path, height_px: int, width_px: int, codec: PackCodec, *, gop_frames: int
) -> None:
    """Encode a part of the clip's picture, scaled."""
    to_rgb = RgbConverter()
    pictures = (
        cut_and_scale(torch.from_numpy(to_rgb(frame))[None], box, height_px, width_px, flip=False)[:, 0]
        for frame in read_frames(clip, start_frame=clip.start_frame, num_frames=clip.num_frames)
    )
    encode_pictures(pictures, path, clip.fps, height_px, width_px, codec, gop_frames=gop_frames)


def encode_pictures(
    pictures_3HW: Iterable[Tensor],
    path: Path,
    fps: float,
    height_px: int,
    width_px: int,
    codec: PackCodec,
    *,
    gop_frames: int = 12,
) -> None:
    """Write one video file of uint8 RGB pictures of that size, at a constant frame rate."""
    to_yuv = VideoReformatter()
    encoding = ENCODINGS[codec]
    with av.open(str(path), "w") as container:
        stream = _add_stream(container, encoding, fps, height_px, width_px, gop_frames)
        for number, picture_3HW in enumerate(pictures_3HW):
            rgb_HW3 = picture_3HW.permute(1, 2, 0).contiguous().numpy()
            picture = yuv_frame(to_yuv, rgb_HW3, encoding.pixel_format, MATRIX, encoding.color_range)
            picture.pts = number
            picture.time_base = stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _add_stream(
    container: OutputContainer, encoding: Encoding, fps: float, height_px: int, width_px: int, gop_frames: int
) -> VideoStream:
    # 1001 brings back the broadcast rates, which are of the form 30000/1001.
    rate = Fraction(fps).limit_denominator(1001)
    stream = container.add_stream(encoding.encoder, rate=rate, options=dict(encoding.options))
    assert isinstance(stream, VideoStream)
    stream.codec_context.gop_size = gop_frames
    stream.height = height_px
    stream.width = width_px
    stream.pix_fmt = encoding.pixel_format
    stream.codec_context.time_base = 1 / rate
    tag_colours(stream, MATRIX, encoding.color_range)
    return stream
