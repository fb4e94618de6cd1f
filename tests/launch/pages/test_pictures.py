"""Pictures in a page are the frames: bit for bit where small, shrunk where large, moving where there is a rate."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cosmos_launch.pages.contents import FrameRow, FrameRows
from cosmos_launch.pages.pictures import film


def frames(count: int, height_px: int = 24, width_px: int = 40) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height_px, width_px, 3), dtype=np.uint8))


def image_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_stills_are_the_frames_and_loops_have_all_of_them() -> None:
    made = film(FrameRows([FrameRow("a", frames(5)), FrameRow("b", frames(3)), FrameRow("none", [])], fps=8))
    for uri, frame in zip(made.strips[0].stills, frames(5), strict=True):
        assert uri.startswith("data:image/png") and np.array_equal(np.asarray(image_of(uri)), frame)
    loops = [image_of(strip.loop) for strip in made.strips[:2]]
    assert [getattr(loop, "n_frames", 1) for loop in loops] == [5, 3]
    assert (made.num_columns, made.width_px, made.strips[2].loop) == (5, 40, "")
    assert film(FrameRows([FrameRow("a", frames(5))])).strips[0].loop == "", "no rate, no loop"


def test_large_frames_are_shrunk_and_bad_ones_refused() -> None:
    [strip] = film(FrameRows([FrameRow("a", frames(1, 360, 1280))])).strips
    assert strip.stills[0].startswith("data:image/jpeg")
    assert image_of(strip.stills[0]).size == (strip.width_px, strip.height_px) == (640, 180)
    with pytest.raises(ValueError, match=r"a frame is float32 \[3, 8, 8\]; give uint8 \[H, W, 3\]"):
        film(FrameRows([FrameRow("a", [np.zeros((3, 8, 8), np.float32)])]))
