"""Pictures as --input, and in folders: what Pillow's own reading shows, upright, on black, in 8 bits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.readers.given_clips import find_clips, read_pixels
from cosmos_data.videos.media import read_first_frames
from cosmos_data.videos.pictures import BACKGROUND_RGB, read_pictures

HEIGHT_PX, WIDTH_PX = 48, 64


def scene() -> Image.Image:
    """No side of it is like another: red left, blue right, bright above, a yellow corner."""
    pixels = np.zeros((HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    pixels[:, :20, 0], pixels[:, 44:, 2] = 220, 210
    pixels[:10] += 40
    pixels[38:, :10] = (240, 230, 20)
    return Image.fromarray(pixels)


def as_input(path: Path, num_frames: int = 1) -> np.ndarray:
    """[T, H, W, 3], as `sample --input` takes it."""
    data = DataConfig(manifest="m", num_frames=17, height_px=HEIGHT_PX, width_px=WIDTH_PX)
    return read_first_frames(path, num_frames, data, crop=False).permute(1, 2, 3, 0).numpy()


# Stored pixels of each EXIF orientation, made of the upright ones: the inverse of what EXIF 2.3 says is to be done.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_orientations_are_upright(tmp_path: Path, orientation: int, suffix: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(scene()))))
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    difference = as_input(tmp_path / f"a.{suffix}")[0].astype(int) - np.asarray(scene())
    assert np.abs(difference).mean() < (2 if suffix == "jpg" else 1e-9)


@pytest.mark.parametrize("name", ["a.avif", "a.bmp", "a.gif", "a.jp2", "a.jpg", "a.png", "a.ppm", "a.tiff", "a.webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1"])
def test_what_pillow_shows(tmp_path: Path, name: str, mode: str):
    try:
        scene().convert(mode).save(tmp_path / name)
    except (OSError, ValueError):
        assert mode in ("P", "CMYK", "1"), "these are what some formats have not"
        return
    with Image.open(tmp_path / name) as file:
        wanted = np.asarray(file.convert("RGB"))
    assert np.array_equal(as_input(tmp_path / name)[0], wanted)
    renamed = (tmp_path / name).rename(tmp_path / "a.mov")
    assert np.array_equal(as_input(renamed)[0], wanted), "by its content"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_background(tmp_path: Path, mode: str):
    """And never the colour that is hidden there; half of it is half of both."""
    picture = scene().convert("RGBA")
    picture.paste((0, 255, 0, 0), (0, 0, 16, HEIGHT_PX))
    if mode != "P":
        picture.paste((200, 200, 200, 128), (32, 0, 40, HEIGHT_PX))
    picture.convert(mode).save(tmp_path / "a.png")
    seen = as_input(tmp_path / "a.png")[0]
    assert (seen[:, :16] == BACKGROUND_RGB).all()
    if mode != "P":
        assert (np.abs(seen[:, 32:40].astype(int) - 100) <= 1).all()


def test_a_gray_of_16_bits_is_scaled(tmp_path: Path):
    ramp_HW = np.linspace(0, 65535, HEIGHT_PX * WIDTH_PX).reshape(HEIGHT_PX, WIDTH_PX).round().astype(np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp_HW).save(tmp_path / name)
        assert np.array_equal(as_input(tmp_path / name)[0], np.repeat((ramp_HW / 257).round()[..., None], 3, axis=2))
    Image.fromarray(ramp_HW.astype(np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(DataError, match=r"--input .*depth.tiff cannot be read as a picture: its pixels are float32"):
        as_input(tmp_path / "depth.tiff")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_has_frames_and_the_first_is_enough(tmp_path: Path, name: str):
    grays = (30, 120, 210)
    frames = [Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (gray, gray, gray)) for gray in grays]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=40)
    assert as_input(tmp_path / name).mean() == pytest.approx(30, abs=2)
    assert as_input(tmp_path / name, 3).mean(axis=(1, 2, 3)) == pytest.approx(grays, abs=2)
    with pytest.raises(DataError, match=r"has 3 frames and 9 are the condition"):
        as_input(tmp_path / name, 9)


def test_pages_are_no_frames(tmp_path: Path):
    pages = [Image.new("L", (WIDTH_PX, HEIGHT_PX), gray) for gray in (30, 120)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    found = read_pictures(tmp_path / "a.tiff", 9)
    assert found is not None and [int(page.mean()) for page in found] == [30]


def test_what_is_torn_is_named_and_what_is_no_picture_is_left_to_others(tmp_path: Path):
    scene().save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:120])
    with pytest.raises(DataError, match=r"--input .*torn.png cannot be read as a picture: .*; save it again as PNG"):
        as_input(tmp_path / "torn.png")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert read_pictures(tmp_path / "a.eps", 1) is None, "Pillow would start another program"


def test_folders_of_pictures_are_read_alike(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 7
    for number, suffix in enumerate(("png", "tiff", "webp")):
        stored = Image.fromarray(np.ascontiguousarray(STORED[7](np.asarray(scene()))))
        stored.save(tmp_path / f"{number}.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    clip = find_clips(tmp_path, pictures_fps=24)[0].describe()
    assert (clip.num_frames, clip.height_px, clip.width_px, clip.fps) == (3, HEIGHT_PX, WIDTH_PX, 24)
    for frame_31HW in read_pixels(clip, num_frames=3, height_px=HEIGHT_PX, width_px=WIDTH_PX):
        assert np.array_equal(frame_31HW[:, 0].permute(1, 2, 0).numpy(), np.asarray(scene()))
