"""Videos whose pictures say their own number: eight blocks, two rows of four, are the bits of its Gray code, so that
one block changes from picture to picture and no cut is seen."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from cosmos_data.manifests.clip import Clip
from cosmos_data.videos.video import RgbConverter, read_frames

DARK, BRIGHT = 30, 225


def picture_of(number: int) -> np.ndarray:
    """uint8 [48, 64, 3]"""
    code = number ^ (number >> 1)
    bits = np.array([code >> bit & 1 for bit in range(8)]).reshape(2, 4)
    blocks_HW = np.where(bits, BRIGHT, DARK).repeat(24, axis=0).repeat(16, axis=1)
    return np.repeat(blocks_HW[..., None], 3, axis=2).astype(np.uint8)


def number_of(rgb_HWC: np.ndarray) -> int:
    """What a picture of any size says."""
    height_px, width_px = rgb_HWC.shape[:2]
    rows, columns = (np.arange(2) + 0.5) * height_px / 2, (np.arange(4) + 0.5) * width_px / 4
    bits = rgb_HWC[rows.astype(int)][:, columns.astype(int)].mean(axis=2).ravel() > 127
    code = sum(int(bit) << place for place, bit in enumerate(bits))
    number = 0
    while code:
        number ^= code
        code >>= 1
    return number


def numbers_of(view: Clip) -> list[int]:
    """Of all frames of a view, as training reads them."""
    to_rgb = RgbConverter()
    frames = read_frames(view, start_frame=view.start_frame, num_frames=view.num_frames)
    return [number_of(to_rgb(frame)) for frame in frames]


def write_coded(path: Path, numbers: Sequence[int], fps: Fraction | int = 30) -> Path:
    """H.264, in the format that the path's suffix names."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"crf": "18"}
        for number in numbers:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture_of(number), format="rgb24")))
        out.mux(stream.encode(None))
    return path
