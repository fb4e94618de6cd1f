"""Colours of videos that are written: made with one matrix and tagged with it, so that players show the same ones.

A player that finds no tags goes by the picture's size, and so a film that is not tagged, or made with the other matrix
than that, is up to fifteen levels off.
"""

from typing import Literal

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from cosmos_data.videos.video import ACCURATE

Matrix = Literal["bt709", "bt601"]
SWSCALE: dict[Matrix, Colorspace] = {"bt709": Colorspace.ITU709, "bt601": Colorspace.ITU601}
TAGS: dict[Matrix, int] = {"bt709": 1, "bt601": 6}
"""AVColorSpace of FFmpeg; 6 is smpte170m."""
BT709_CURVES = 1
"""AVColorPrimaries and AVColorTransferCharacteristic of FFmpeg, for both matrices: pictures are sRGB, whose primaries
these are, and of the curves that videos are tagged with it is the one that is shown as sRGB is."""


def matrix_of_size(height_px: int, width_px: int) -> Matrix:
    """Return what players take where nothing is said: BT.709 of high definition, of any orientation, else BT.601."""
    return "bt709" if width_px >= 1280 or height_px > 576 else "bt601"


def tag_colours(stream: VideoStream, matrix: Matrix, color_range: ColorRange) -> None:
    """Tag a stream with its colours, before its first frame."""
    context = stream.codec_context
    assert isinstance(context, VideoCodecContext)
    context.colorspace = TAGS[matrix]
    context.color_range = color_range
    context.color_primaries = context.color_trc = BT709_CURVES


def yuv_frame(
    to_yuv: VideoReformatter, rgb_HW3: np.ndarray, pixel_format: str, matrix: Matrix, color_range: ColorRange
) -> av.VideoFrame:
    """Return a frame to encode, of a uint8 RGB picture. to_yuv: keeps its tables between frames; there is one for each
    video."""
    return to_yuv.reformat(
        av.VideoFrame.from_ndarray(rgb_HW3, format="rgb24"),
        format=pixel_format,
        interpolation=ACCURATE,
        dst_colorspace=SWSCALE[matrix],
        dst_color_range=color_range,
        threads=1,
    )
