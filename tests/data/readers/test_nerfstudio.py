"""transforms.json, as nerfstudio, instant-ngp and DL3DV write it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import FLIP_Y_AND_Z, inverse_of, to_44
from cosmos_data.readers.nerfstudio import read_transforms

FOLDER = Path(__file__).parent / "formats/cameras"
FRAME = {"file_path": "./images/a.png", "transform_matrix": np.eye(4).tolist()}


def read(**values: Any):
    return read_transforms(json.dumps({"w": 96, "h": 72, "fl_x": 80, "frames": [FRAME]} | values).encode(), "t.json")


def test_poses_are_of_opengl_from_the_camera_to_the_world():
    pictures = read_transforms((FOLDER / "nerfstudio/transforms.json").read_bytes(), "t.json")
    poses = to_44(np.stack([picture.matrix_34 for picture in pictures])) @ FLIP_Y_AND_Z
    expected = json.loads((FOLDER / "expected.json").read_text())["world_to_camera_opencv_34"]
    assert np.abs(inverse_of(poses)[:, :3] - np.array(expected)).max() < 1e-12
    assert pictures[0].intrinsics_px == (85, 83, 47.25, 37.5) and pictures[0].size_px == (72, 96)


def test_intrinsics_of_the_file_of_a_frame_and_of_an_angle():
    [picture] = read()
    assert picture.intrinsics_px == (80, 80, 48, 36) and picture.name == "images/a.png"
    [picture] = read(frames=[FRAME | {"fl_x": 90, "fl_y": 91, "cx": 40, "cy": 30}])
    assert picture.intrinsics_px == (90, 91, 40, 30)
    content = {"w": 96, "h": 72, "camera_angle_x": math.pi / 2, "frames": [FRAME]}
    [picture] = read_transforms(json.dumps(content).encode(), "t.json")
    assert picture.intrinsics_px[0] == pytest.approx(48)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frames": []}, "t.json has no list `frames`"),
        ({"frames": [{"file_path": "a"}]}, "frame 0 has no transform_matrix of 4x4"),
        ({"frames": [FRAME, {"transform_matrix": np.eye(4).tolist()}]}, "frame 1 has no file_path"),
        ({"frames": [FRAME | {"transform_matrix": [["a"]]}]}, "something else than numbers"),
        ({"camera_model": "OPENCV_FISHEYE"}, "a camera OPENCV_FISHEYE; .* undistort"),
        ({"w": 0}, "w=0 and h=72 are no size"),
        ({"fl_x": "80"}, "fl_x='80' is no number"),
        ({"fl_x": True}, "fl_x=True is no number"),
    ],
)
def test_what_is_wrong_is_named(values, words):
    with pytest.raises(DataError, match=words):
        read(**values)


def test_what_is_missing_is_named():
    for content, words in (
        ({"frames": [FRAME]}, "neither fl_x nor camera_angle_x"),
        ({"frames": [FRAME], "fl_x": 80}, "neither cx and cy nor w and h"),
        ([], "t.json: .* is no JSON object"),
    ):
        with pytest.raises(DataError, match=words):
            read_transforms(json.dumps(content).encode(), "t.json")
