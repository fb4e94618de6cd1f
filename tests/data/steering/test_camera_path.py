"""Camera paths that a command is given become the camera of each frame, or one error that names the remedy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.clips import CLIP

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import FLIP_Y_AND_Z, camera_to_world_T44, inverse_of
from cosmos_data.geometry.rotations import angle_between_rad, to_euler
from cosmos_data.manifests.conditions import Camera
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.steering.camera_path import read_camera
from cosmos_data.steering.steered import SteeredVideo

VIDEO = SteeredVideo(num_frames=5, fps=10.0, height_px=32, width_px=64)
DATA = DataConfig(manifest="unused", num_frames=5, height_px=32, width_px=64)
INTRINSICS = (40.0, 40.0, 32.0, 16.0)


def poses(source: str, video: SteeredVideo = VIDEO) -> np.ndarray:
    return camera_to_world_T44(read_camera(source, video, DATA, intrinsics_px=INTRINSICS), video.num_frames)


def test_a_camera_that_stands_still():
    np.testing.assert_allclose(poses("still"), np.broadcast_to(np.eye(4), (5, 4, 4)))


def test_a_pan_turns_to_the_right_at_an_even_pace():
    poses_T44 = poses("pan:40")
    np.testing.assert_allclose(poses_T44[:, :3, 3], 0)
    np.testing.assert_allclose(np.degrees(to_euler(poses_T44[:, :3, :3], "XYZ")[:, 1]), [0, 10, 20, 30, 40], atol=1e-9)
    # What was ahead is to the left of a camera that has turned right: x < 0 in its own axes.
    assert (inverse_of(poses_T44[4]) @ [0, 0, 1, 1])[0] < 0


def test_a_dolly_goes_ahead():
    np.testing.assert_allclose(poses("dolly:2")[:, :3, 3], [[0, 0, z] for z in (0, 0.5, 1, 1.5, 2)])


def test_an_orbit_keeps_its_point_in_the_middle():
    """The point stays at the radius straight ahead, while the camera goes to the right by as many degrees."""
    poses_T44 = poses("orbit:60,radius=3")
    seen_T4 = inverse_of(poses_T44) @ [0, 0, 3, 1]
    np.testing.assert_allclose(seen_T4[:, :3], [[0, 0, 3]] * 5, atol=1e-12)
    assert np.degrees(angle_between_rad(poses_T44[:1, :3, :3], poses_T44[4:, :3, :3]))[0] == pytest.approx(60)
    assert (np.diff(poses_T44[:, 0, 3]) > 0).all()


def test_intrinsics_of_a_field_of_view():
    """A point at the edge of the view lies at the picture's edge."""
    camera = read_camera("still:fov_deg=90", VIDEO, DATA)
    assert camera.intrinsics_px == pytest.approx((32.0, 32.0, 32.0, 16.0))


# Files


def written(folder: Path, **changes: Any) -> str:
    path_T44 = np.stack([np.eye(4)] * 5)
    path_T44[:, 0, 3] = range(5)
    values = {
        "convention": "camera_to_world_opencv",
        "intrinsics_px": INTRINSICS,
        "height_px": 32,
        "width_px": 64,
        "extrinsics": path_T44[:, :3].tolist(),
    }
    (folder / "path.json").write_text(json.dumps(values | changes))
    return str(folder / "path.json")


def test_a_file_has_a_pose_for_each_frame(tmp_path: Path):
    np.testing.assert_allclose(poses(written(tmp_path))[:, 0, 3], range(5))
    four = read_camera(written(tmp_path), SteeredVideo(num_frames=4, fps=1, height_px=32, width_px=64), DATA)
    assert len(four.extrinsics) == 4 * 12, "a longer path is cut"


@pytest.mark.parametrize("convention", ["world_to_camera_opencv", "camera_to_world_opencv", "camera_to_world_opengl"])
def test_key_frames_in_any_convention(convention: str, tmp_path: Path):
    """Half of a quarter turn is an eighth, and the centre moves along a line, in whatever convention the file is."""
    quarter_44 = np.array([[0, 0, 1, 2], [0, 1, 0, 0], [-1, 0, 0, 4], [0, 0, 0, 1.0]])
    keys_K44 = np.stack([np.eye(4), quarter_44])
    if convention == "world_to_camera_opencv":
        keys_K44 = inverse_of(keys_K44)
    elif convention == "camera_to_world_opengl":
        keys_K44 = keys_K44 @ FLIP_Y_AND_Z
    found = poses(written(tmp_path, convention=convention, extrinsics=keys_K44.tolist(), key_frames=[0, 4]))
    np.testing.assert_allclose(found[:, :3, 3], [[0, 0, 0], [0.5, 0, 1], [1, 0, 2], [1.5, 0, 3], [2, 0, 4]], atol=1e-9)
    np.testing.assert_allclose(np.degrees(to_euler(found[:, :3, :3], "XYZ")[:, 1]), [0, 22.5, 45, 67.5, 90], atol=1e-6)


MIRRORED = np.broadcast_to(np.diag([1.0, 1.0, -1.0, 1.0]), (5, 4, 4)).tolist()
WRONG_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "complaint 13: intrinsics of another picture": (
        {"height_px": 64, "width_px": 128},
        "of a picture of 128x64 px, and the video is 64x32 px; multiply fx and cx by 0.5, fy and cy by 0.5",
    ),
    "another shape": ({"height_px": 64}, "64x64 px, and the video is 64x32 px; cut the picture to the video's shape"),
    "a path that is too short": (
        {"extrinsics": np.eye(4)[None].repeat(3, 0).tolist()},
        "it has poses for 3 frames and the video has 5; give a longer path, or --num-frames 3",
    ),
    "left-handed": ({"extrinsics": MIRRORED}, "the matrix at frame 0 is no rotation (a mirror image), 5 of 5 in all"),
    "scaled": ({"extrinsics": (2 * np.eye(4)[None, :3]).repeat(5, 0).tolist()}, "is no rotation (off by 3)"),
    "not a number": ({"extrinsics": [[[float("nan")] * 4] * 3] * 5}, "extrinsics: nan at frame 0, 60 such values"),
    "transposed": ({"extrinsics": [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [3, 0, 0, 1]]] * 5}, "must be 0 0 0 1"),
    "ragged": ({"extrinsics": [[[1], [1, 2]]]}, "extrinsics holds what is no number, or rows of different lengths"),
    "no matrices": ({"extrinsics": []}, "extrinsics is of shape [0]; give a list of 3x4 or 4x4 matrices"),
    "no convention of ours": (
        {"convention": "opengl"},
        "camera: convention 'opengl' is none of world_to_camera_opencv",
    ),
    "two numbers": (
        {"intrinsics_px": [40, 40]},
        "intrinsics_px is of shape [2]; give fx, fy, cx, cy once, or for each",
    ),
    "key frames that go back": ({"key_frames": [0, 2, 1, 3, 4]}, "must be 5 frame numbers, one for each pose, from 0"),
    "a key that is misspelled": ({"fps": 3}, "it has unknown keys fps; a path needs convention, intrinsics_px"),
    "half a pixel": ({"height_px": 32.5}, "height_px=32.5 is not a positive count of pixels"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_files(changes: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(DataError) as caught:
        poses(written(tmp_path, **changes))
    assert said in str(caught.value) and str(caught.value).startswith(f"--camera {tmp_path}/path.json: ")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("orbit:fast", "amount is 'fast', no number"),
        ("orbit:nan", "amount is 'nan', no number"),
        ("orbit:30,radius=0", "radius=0 must be greater than 0"),
        ("orbit:30,fov_deg=180", "fov_deg=180 must lie between 0 and 180"),
        ("orbit:30,speed=2", "speed=2 is nothing that orbit takes; it takes amount=... and radius=... and fov_deg=..."),
        ("orbit:30,2", "2= is nothing that orbit takes"),
        ("pan:30,amount=50", "amount is said twice, 30 and 50; say it once"),
        ("pan:fov_deg=50,fov_deg=60", "fov_deg is said twice, 50 and 60"),
        ("pan:30,radius=2", "radius=2 is nothing that pan takes; it takes amount=... and fov_deg=..."),
        ("still:5", "amount=5 is nothing that still takes; it takes fov_deg=..."),
        ("spiral:30", "it is no file, no clip (MANIFEST#CLIP) and no motion (still, pan, dolly, orbit)"),
        ("gone.arrow#clip", "gone.arrow is not a file; name a manifest"),
    ],
)
def test_wrong_arguments(source: str, said: str):
    with pytest.raises(DataError) as caught:
        poses(source)
    assert said in str(caught.value) and str(caught.value).startswith(f"--camera {source}: ")


@pytest.mark.parametrize(("short", "long"), [("orbit", "orbit:30"), ("pan", "pan:20"), ("dolly", "dolly:0.5")])
def test_a_motion_without_a_number_goes_by_its_default(short: str, long: str):
    np.testing.assert_array_equal(poses(short), poses(long))
    np.testing.assert_array_equal(poses(f"{short}:fov_deg=60"), poses(f"{long},fov_deg=60"))
    np.testing.assert_array_equal(poses(f"{short},fov_deg=60"), poses(f"{long},fov_deg=60"))


def test_a_motion_needs_a_field_of_view():
    with pytest.raises(DataError, match=r"it says no field of view, .* as in pan:20,fov_deg=60"):
        read_camera("pan:20", VIDEO, DATA)


# Clips


def manifest_of(folder: Path, num_frames: int = 20) -> str:
    """A clip of 64 x 64 px at 20 fps whose camera moves by 1 a frame, and one without a camera."""
    extrinsics = np.stack([np.eye(4)[:3]] * num_frames)
    extrinsics[:, 2, 3] = range(num_frames)
    camera = Camera(
        convention="camera_to_world_opencv",
        intrinsics_px=(50.0, 50.0, 32.0, 32.0),
        height_px=64,
        width_px=64,
        extrinsics=tuple(extrinsics.ravel().tolist()),
    )
    bare = replace(CLIP, clip_id="bare", num_frames=num_frames, fps=20.0, height_px=64, width_px=64)
    Manifest([replace(bare, clip_id="moved", camera=camera), bare]).write(folder / "m.arrow")
    return str(folder / "m.arrow")


def test_a_clip_of_a_manifest_is_cut_as_a_window_is(tmp_path: Path):
    """Of 20 frames a second every second one, and the middle of the picture."""
    camera = read_camera(f"{manifest_of(tmp_path)}#moved", VIDEO, DATA)
    assert camera.extrinsics_T34(5)[:, 2, 3].tolist() == [0, 2, 4, 6, 8]
    assert (camera.height_px, camera.width_px, camera.intrinsics_px) == (32, 64, (50.0, 50.0, 32.0, 16.0))


@pytest.mark.parametrize(
    ("clip", "num_frames", "said"),
    [
        ("bare", 20, "the clip has no camera; name a clip that has one"),
        ("other", 20, "has no clip 'other'; its 2 clips are moved, bare"),
        ("moved", 8, "has 8 frames, fewer than the 9 that a video of 5 frames at 10 per second spans"),
    ],
)
def test_clips_that_do_not_serve(clip: str, num_frames: int, said: str, tmp_path: Path):
    with pytest.raises(DataError, match=said):
        poses(f"{manifest_of(tmp_path, num_frames)}#{clip}")
