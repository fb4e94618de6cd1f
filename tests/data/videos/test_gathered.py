"""Pictures become a video whose frames are theirs, bit for bit."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_data.readers.given_clips import whole_video
from cosmos_data.videos.gathered import gather
from cosmos_data.videos.opened import BadVideoError
from cosmos_data.videos.video import RgbConverter, read_frames

PICTURES = np.random.default_rng(0).integers(0, 255, (3, 24, 36, 3), dtype=np.uint8)


def coded(picture_HW3: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture_HW3).save(content, format, **options)
    return content.getvalue()


def frames_of(path: Path) -> list[np.ndarray]:
    clip = whole_video(path)
    return list(map(RgbConverter(), read_frames(clip, start_frame=0, num_frames=clip.num_frames)))


def test_png_comes_back_exactly_at_its_rate_and_the_file_is_always_the_same(tmp_path):
    for name in ("a.avi", "b.avi"):
        gather(map(coded, PICTURES), tmp_path / name, 30000 / 1001)
    assert np.array_equal(frames_of(tmp_path / "a.avi"), PICTURES)
    clip = whole_video(tmp_path / "a.avi")
    assert clip.fps == pytest.approx(30000 / 1001) and (clip.codec, clip.seek) == ("png", "rate")
    assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()


def test_jpeg_is_not_coded_again(tmp_path):
    contents = [coded(picture, "JPEG") for picture in PICTURES]
    gather(contents, tmp_path / "a.avi", 10.0)
    assert whole_video(tmp_path / "a.avi").codec == "mjpeg"
    whole = (tmp_path / "a.avi").read_bytes()
    assert all(content in whole for content in contents)


def test_pictures_of_other_kinds_are_as_a_viewer_shows_them(tmp_path):
    """Turned by EXIF, transparent on black, gray, of 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    gather([coded(PICTURES[0], exif=exif)], tmp_path / "turned.avi", 10.0)
    assert np.array_equal(frames_of(tmp_path / "turned.avi")[0], np.rot90(PICTURES[0], -1))
    half = np.concatenate([PICTURES[0], np.full((24, 36, 1), 0, np.uint8)], axis=2)
    half[:, :9, 3] = 255
    gather([coded(half)], tmp_path / "transparent.avi", 10.0)
    seen = frames_of(tmp_path / "transparent.avi")[0]
    assert np.array_equal(seen[:, :9], PICTURES[0][:, :9]) and not seen[:, 9:].any()
    wide = PICTURES[0, :, :, 0].astype(np.uint16) * 257
    gather([coded(wide)], tmp_path / "wide.avi", 10.0)
    assert np.array_equal(frames_of(tmp_path / "wide.avi")[0], PICTURES[0, :, :, :1].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([], "it has no pictures"),
        ([coded(PICTURES[0]), b"torn"], "picture 1 can not be read"),
        ([coded(PICTURES[0]), coded(PICTURES[0][:12])], "picture 1 has 36x12 px.* the first 36x24"),
        ([coded(PICTURES[0]), coded(PICTURES[0], "JPEG")], "picture 1 has .*stored as mjpeg, the first .*as png"),
    ],
)
def test_what_is_no_film_is_refused_and_leaves_no_file(tmp_path, contents, words):
    with pytest.raises(BadVideoError, match=words):
        gather(contents, tmp_path / "a.avi", 10.0)
    assert list(tmp_path.iterdir()) == []
