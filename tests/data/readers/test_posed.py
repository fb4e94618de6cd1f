"""Names of pictures in the order in which people count; lenses that are nearly pinholes."""

import itertools
import json
import struct

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.geometry.tracks import opencv
from cosmos_data.readers.colmap import MODELS, read_model
from cosmos_data.readers.found import FoundCamera
from cosmos_data.readers.nerfstudio import read_transforms
from cosmos_data.readers.posed import bend_px, camera_of, natural_key


def test_numbers_count_by_their_value_and_other_digits_are_letters():
    assert sorted(["frame_10.png", "frame_9.png", "a.png"], key=natural_key) == ["a.png", "frame_9.png", "frame_10.png"]
    assert sorted(["1²10", "1²9", "1²²"], key=natural_key)[:2] == ["1²9", "1²10"]


def test_a_lens_moves_pixels_as_opencv_says():
    intrinsics, size_px, (k1, k2, p1, p2, k3, k4, k5, k6) = (85.0, 83.0, 47.0, 37.0), (72, 96), (0.01 * np.arange(1, 9))
    places = itertools.product((0, 48, 96), (0, 36, 72))
    grid_P3 = np.array([((x - 47) / 85, (y - 37) / 83, 1) for x, y in places])
    matrix = np.array([[85, 0, 47], [0, 83, 37], [0, 0, 1.0]])
    projected = opencv().projectPoints(grid_P3, np.zeros(3), np.zeros(3), matrix, (k1, k2, p1, p2, k3, k4, k5, k6))[0]
    shift_P2 = projected[:, 0] - grid_P3[:, :2] * (85, 83) - (47, 37)
    found = bend_px(intrinsics, size_px, radial=(k1, k2, k3), divided_by=(k4, k5, k6), tangential=(p1, p2))
    assert found == pytest.approx(np.hypot(*shift_P2.T).max(), rel=1e-9)


def transforms_camera(**distortion: float) -> FoundCamera:
    """As DL3DV has them: poses of pictures of 3840x2160, of which there are smaller ones."""
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}
    values = {"w": 3840, "h": 2160, "fl_x": 2300, "cx": 1920, "cy": 1080, "camera_model": "OPENCV", "frames": [frame]}
    return camera_of(read_transforms(json.dumps(values | distortion).encode(), "t.json"), "camera_to_world_opengl", "t")


def colmap_camera(model: str, *parameters: float) -> FoundCamera:
    names = list(MODELS)
    cameras = struct.pack(f"<QIiQQ{len(parameters)}d", 1, 1, names.index(model), 3840, 2160, *parameters)
    images = struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 1, 2, 3, 1) + b"b.png\0" + struct.pack("<Q", 0)
    return camera_of(read_model(cameras, images, "model", is_binary=True), "world_to_camera_opencv", "t")


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        (
            transforms_camera(k1=-0.009, k2=0.0003, p1=0.0001),
            r"OPENCV with distortion \(k1=-0.009, k2=0.0003, p1=0.0001",
        ),
        (transforms_camera(p2=0.001), r"\(p2=0.001\)"),
        (colmap_camera("SIMPLE_RADIAL", 2300, 1920, 1080, 0.01), r"SIMPLE_RADIAL with distortion \(k=0.01\)"),
        (colmap_camera("RADIAL", 2300, 1920, 1080, 0, 0.01), r"\(k2=0.01\)"),
        (colmap_camera("FULL_OPENCV", 2300, 2300, 1920, 1080, 0, 0, 0, 0, 0, 0.01, 0, 0), r"\(k4=0.01\)"),
    ],
)
def test_a_lens_that_bends_is_refused_by_how_far(camera: FoundCamera, said: str):
    with pytest.raises(DataError, match=rf"{said}.*px; cameras here are pinholes, which it may miss by 0.5 px: undist"):
        camera.of_pictures(1, 540, 960)


def test_a_lens_that_is_nearly_a_pinhole_is_one_of_the_pictures_that_are_read():
    """It moves corners by 1.2 px of 4K pictures, and by 0.3 of those a quarter as wide."""
    for camera in (transforms_camera(k1=-0.0006), colmap_camera("SIMPLE_RADIAL", 2300, 1920, 1080, -0.0006)):
        assert camera.bend_px == pytest.approx(1.2, abs=0.1)
        assert camera.of_pictures(1, 540, 960).intrinsics_px == (2300, 2300, 1920, 1080)
        with pytest.raises(DataError, match=r"moves pixels of these 3840x2160 px by up to 1.2\d? px"):
            camera.of_pictures(1, 2160, 3840)
