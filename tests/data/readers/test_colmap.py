"""Models that pycolmap wrote, as text and binary, and lenses that are refused by name."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.readers.colmap import MODELS, read_model
from cosmos_data.readers.posed import PosedPicture, camera_of, in_order

COLMAP = Path(__file__).parent / "formats/cameras/colmap"
EXPECTED = json.loads((COLMAP.parent / "expected.json").read_text())


def model(suffix: str) -> list[PosedPicture]:
    folder = COLMAP / ("sparse/0" if suffix == ".bin" else "sparse_text")
    cameras, images = ((folder / f"{name}{suffix}").read_bytes() for name in ("cameras", "images"))
    return read_model(cameras, images, "model", is_binary=suffix == ".bin")


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_models_of_pycolmap(suffix):
    pictures = in_order(model(suffix)[::-1])
    assert [picture.name for picture in pictures] == [f"frame_{number:06d}.png" for number in range(9)]
    assert pictures[0].intrinsics_px == (85, 83, 47.25, 37.5) and pictures[0].size_px == (72, 96)
    matrices = np.stack([picture.matrix_34 for picture in pictures])
    assert np.abs(matrices - np.array(EXPECTED["world_to_camera_opencv_34"])).max() < 1e-12


IMAGES = b"# a comment\n1 1 0 0 0 1 2 3 1 a picture.png\n\n2 1 0 0 0 4 5 6 1 b.png\n\n"


@pytest.mark.parametrize(
    ("line", "intrinsics"),
    [
        ("1 SIMPLE_PINHOLE 96 72 80 48 36", (80, 80, 48, 36)),
        ("1 PINHOLE 96 72 80 81 48 36", (80, 81, 48, 36)),
        ("1 SIMPLE_RADIAL 96 72 80 48 36 0", (80, 80, 48, 36)),
        ("1 FULL_OPENCV 96 72 80 81 48 36 0 0 0 0 0 0 0 0", (80, 81, 48, 36)),
    ],
)
def test_lenses_without_distortion(line, intrinsics):
    first, second = read_model(line.encode(), IMAGES, "model", is_binary=False)
    assert first.intrinsics_px == intrinsics and (first.name, second.name) == ("a picture.png", "b.png")
    assert second.matrix_34[:, 3].tolist() == [4, 5, 6]


def test_binary_cameras_of_every_model_have_their_parameters():
    """The second camera is only found where the first one's length is right."""
    for number, (name, parameters) in enumerate(MODELS.items()):
        values = [0.0] * len(parameters.split())
        first = struct.pack(f"<IiQQ{len(values)}d", 1, number, 96, 72, *values)
        second = struct.pack("<IiQQ3d", 2, 0, 96, 72, 80, 48, 36)
        cameras = struct.pack("<Q", 2) + first + second
        images = struct.pack("<QI7dI", 1, 1, 1, 0, 0, 0, 1, 2, 3, 2) + b"b.png\0" + struct.pack("<Q", 0)
        if name.endswith("FISHEYE") or name == "FOV":
            with pytest.raises(DataError, match=f"a camera {name}, which is no pinhole and not read; undistort"):
                read_model(cameras, images, "model", is_binary=True)
        else:
            [picture] = read_model(cameras, images, "model", is_binary=True)
            assert picture.intrinsics_px == (80, 80, 48, 36)


@pytest.mark.parametrize(
    ("cameras", "images", "words"),
    [
        ("1 PINHOLE 96 72 80 48 36", IMAGES, "a camera PINHOLE has 3 parameters; fx fy cx cy are needed"),
        ("2 PINHOLE 96 72 80 80 48 36", IMAGES, "picture a picture.png has camera 1, which cameras lacks"),
        ("1 PINHOLE 0 72 80 80 48 36", IMAGES, "a camera of 0x72 px"),
        ("1 PINHOLE 96 wide", IMAGES, "no model of COLMAP that can be read"),
        ("1 PINHOLE 96 72 80 80 48 36", b"# nothing\n", "no registered picture"),
        ("1 PINHOLE 96 72 80 80 48 36", b"1 0 0 0 0 1 2 3 1 a.png\n\n", "the quaternion at 0"),
    ],
)
def test_what_is_wrong_is_named(cameras, images, words):
    with pytest.raises(DataError, match=words):
        read_model(cameras.encode(), images, "model", is_binary=False)


@pytest.mark.parametrize("place", [4, 20, 40, 100, 500])
def test_binary_files_that_are_cut_off(place):
    folder = COLMAP / "sparse/0"
    cameras, images = ((folder / name).read_bytes() for name in ("cameras.bin", "images.bin"))
    with pytest.raises(DataError, match="can be read"):
        read_model(cameras, images[:place], "model", is_binary=True)
    if place < len(cameras):
        with pytest.raises(DataError, match="can be read"):
            read_model(cameras[:place], images, "model", is_binary=True)


def test_pictures_of_two_sizes_are_no_video():
    first, second, *_ = model(".txt")
    other = PosedPicture(name="b", intrinsics_px=(1, 1, 1, 1), size_px=(9, 9), matrix_34=second.matrix_34)
    with pytest.raises(DataError, match="several sizes"):
        camera_of([first, other], "world_to_camera_opencv", "model")
