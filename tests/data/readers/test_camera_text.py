"""Texts of poses beside a video are told from captions, and become its camera."""

from pathlib import Path

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.geometry.rotations import from_euler, to_quaternion
from cosmos_data.readers.camera_text import camera_of_text

REALESTATE10K = Path(__file__).parent / "formats/cameras/realestate10k/0000cc6d8b108390.txt"


def test_realestate10k():
    content = REALESTATE10K.read_bytes()
    camera = camera_of_text(content, "a.txt")
    assert camera is not None and camera.is_relative and camera.convention == "world_to_camera_opencv"
    of_video = camera.of_pictures(9, 72, 96)
    assert of_video.intrinsics_px[:4] == pytest.approx((85, 83, 47.25, 37.5)) and of_video.width_px == 96
    assert np.allclose(np.diff(camera.times_sec), 1 / 12, atol=1e-6)
    assert camera.of_pictures(9, 144, 192).intrinsics_px[:4] == pytest.approx((170, 166, 94.5, 75))


def test_the_11_numbers_of_cosmos():
    """fx fy cx cy, then the quaternion with w last, then the translation; from the world to the camera."""
    rotations = from_euler(np.array([[0.1, 0.2, 0.3], [0.2, 0.1, -0.3]]), "xyz")
    rows = np.concatenate([[[80, 81, 48, 36]] * 2, to_quaternion(rotations, "xyzw"), [[1, 2, 3], [4, 5, 6]]], axis=1)
    text = "\n".join(" ".join(f"{value:.12g}" for value in row) for row in rows)
    camera = camera_of_text(text.encode(), "a.txt")
    assert camera is not None and camera.convention == "world_to_camera_opencv"
    of_video = camera.of_pictures(2, 72, 96)
    matrices = of_video.extrinsics_T34(2)
    assert np.abs(matrices[:, :, :3] - rotations).max() < 1e-9 and matrices[1, :, 3].tolist() == [4, 5, 6]
    assert of_video.intrinsics_T4(2)[1].tolist() == [80, 81, 48, 36] and of_video.height_px == 72


@pytest.mark.parametrize("text", [b"a red ball", b"", b"42", b"1 2 3 4", b"\xff\xfe", b"https://a.b\n", b"10:20"])
def test_other_texts_are_none(text):
    assert camera_of_text(text, "a.txt") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:4], lines[4].rpartition(" ")[0], *lines[5:]], "a.txt: pose 4 has 18 numbers"),
        (lambda lines: [line.replace(" 0.0 0.0 ", " 0.1 0.0 ") for line in lines], r"distortion \[0.1, 0.0\]"),
        (lambda lines: [line.replace(" 0.885416667 ", " 85 ") for line in lines], "divided by the picture's width"),
    ],
)
def test_a_wrong_line_is_named(change, words):
    lines = REALESTATE10K.read_text().splitlines()
    with pytest.raises(DataError, match=words):
        camera_of_text("\n".join(change(lines)).encode(), "a.txt")


def test_poses_of_another_video_are_refused():
    camera = camera_of_text(REALESTATE10K.read_bytes(), "a.txt")
    assert camera is not None
    with pytest.raises(DataError, match=r"a.txt holds 9 poses, and there are 10 frames; give a pose for each"):
        camera.of_pictures(10, 72, 96)
    zero = b"80 80 48 36 0 0 0 0 1 2 3"
    with pytest.raises(DataError, match=r"a\.txt: the quaternion at 0"):
        camera_of_text(zero, "a.txt")
