"""Frames as pictures inside a page: data URIs of stills and of loops."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cosmos_launch.pages.contents import FrameRow, FrameRows

MAX_SIDE_PX = 640
"""Larger frames are shrunk to it."""
MAX_LOSSLESS_PX = 256 * 256
"""Frames up to this many pixels are PNG, larger ones JPEG."""


@dataclass(frozen=True)
class Strip:
    """A film strip as the page has it."""

    label: str
    width_px: int
    height_px: int
    stills: list[str]
    """A data URI for each frame."""
    loop: str
    """A data URI of the moving picture; empty where none is wanted."""


@dataclass(frozen=True)
class Film:
    """Film strips under each other as the page has them."""

    strips: list[Strip]
    num_columns: int
    width_px: int
    """The width of the widest frame."""


def film(rows: FrameRows) -> Film:
    """Encode the frames, and with `fps` their loops. Raises ValueError where a frame is not uint8 [H, W, 3]."""
    strips = [_strip(row, rows.fps) for row in rows.rows]
    num_columns = max((len(strip.stills) for strip in strips), default=1)
    return Film(strips, num_columns, max((strip.width_px for strip in strips), default=1))


def _strip(row: FrameRow, fps: float | None) -> Strip:
    pictures = [_picture(frame) for frame in row.frames]
    width_px, height_px = pictures[0].size if pictures else (1, 1)
    loop = _loop_uri(pictures, fps) if fps and pictures else ""
    return Strip(row.label, width_px, height_px, [_still_uri(picture) for picture in pictures], loop)


def _picture(frame: np.ndarray) -> Image.Image:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame is {frame.dtype} {list(frame.shape)}; give uint8 [H, W, 3]")
    picture = Image.fromarray(frame)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    return picture


def _still_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    if picture.width * picture.height <= MAX_LOSSLESS_PX:
        picture.save(buffer, "PNG", optimize=True)
        return _uri("image/png", buffer)
    picture.save(buffer, "JPEG", quality=90)
    return _uri("image/jpeg", buffer)


def _loop_uri(pictures: Sequence[Image.Image], fps: float) -> str:
    buffer = io.BytesIO()
    first, *rest = pictures
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=90)
    return _uri("image/webp", buffer)


def _uri(media_type: str, buffer: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
