"""Folders as programs that reconstruct scenes leave them, built into manifests of clips with cameras."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import camera_to_world_T44, inverse_of
from cosmos_data.manifests.build import Built, build_manifest, said_of_left_out
from cosmos_data.manifests.clip import Clip
from cosmos_data.readers.given_clips import whole_video
from cosmos_data.videos.video import RgbConverter, read_frames

CAMERAS = Path(__file__).parent / "formats/cameras"
EXPECTED = json.loads((CAMERAS / "expected.json").read_text())
WORLD_TO_CAMERA = np.array(EXPECTED["world_to_camera_opencv_34"])


def pictures_of_video() -> list[np.ndarray]:
    clip = whole_video(CAMERAS / "nerfstudio/video.mp4")
    return list(map(RgbConverter(), read_frames(clip, start_frame=0, num_frames=9)))


def write_pictures(folder: Path, names: list[str], size: int = 1) -> None:
    folder.mkdir(parents=True)
    for name, picture in zip(names, pictures_of_video(), strict=True):
        Image.fromarray(picture).resize((96 // size, 72 // size)).save(folder / name)


def built(folder: Path, **options: float) -> Built:
    return build_manifest(folder, None, None, max_bad_share=1.0, gathered_folder=folder / "gathered", **options)


def has_the_poses(clip: Clip) -> bool:
    assert clip.camera is not None
    poses = inverse_of(camera_to_world_T44(clip.camera, 9))[:, :3]
    return bool(np.abs(poses - WORLD_TO_CAMERA).max() < 1e-8)


def test_videos_beside_their_poses():
    made = built(CAMERAS)
    assert not made.bad and len(made.manifest) == 3
    for clip in made.manifest:
        assert has_the_poses(clip) and clip.caption == ""
        assert clip.camera is not None
        assert clip.camera.intrinsics_px[:4] == pytest.approx(EXPECTED["intrinsics_px_fx_fy_cx_cy"], abs=1e-6)
    said = "\n".join(said_of_left_out(made.left_out))
    assert "1: further poses of a scene whose poses are read already" in said and "sparse_text" in said


def test_a_caption_stays_beside_poses(tmp_path):
    shutil.copytree(CAMERAS / "realestate10k", tmp_path / "a")
    (tmp_path / "a/0000cc6d8b108390.caption").write_text("spheres on a board")
    [clip] = built(tmp_path).manifest
    assert clip.caption == "spheres on a board" and has_the_poses(clip)


def test_pictures_become_a_video_with_the_same_pixels(tmp_path):
    """nerfstudio: frames in any order, and pictures beside the file."""
    content = json.loads((CAMERAS / "nerfstudio/transforms.json").read_text())
    write_pictures(tmp_path / "scene/images", [f"frame_{number:06d}.png" for number in range(9)])
    (tmp_path / "scene/transforms.json").write_text(json.dumps(content | {"frames": content["frames"][::-1]}))
    made = built(tmp_path, pictures_fps=12)
    [clip] = made.manifest
    assert not made.bad and not made.left_out and has_the_poses(clip)
    assert (clip.clip_id, clip.fps, clip.path) == ("scene@0", 12, str(tmp_path / "gathered/scene.avi"))
    frames = list(map(RgbConverter(), read_frames(clip, start_frame=0, num_frames=9)))
    assert np.array_equal(frames, pictures_of_video())
    for options, words in (({}, "say frames per second"), ({"pictures_fps": -1}, "pictures_fps=-1 is no rate")):
        with pytest.raises(DataError, match=words):
            build_manifest(tmp_path / "scene", None, None, gathered_folder=tmp_path / "gathered", **options)
    with pytest.raises(DataError, match="say where they are gathered"):
        build_manifest(tmp_path / "scene", None, None, pictures_fps=12)


def test_dl3dv_has_smaller_pictures_than_its_poses_say(tmp_path):
    shutil.copy(CAMERAS / "nerfstudio/transforms.json", tmp_path)
    write_pictures(tmp_path / "images_4", [f"frame_{number:06d}.png" for number in range(9)], size=4)
    [clip] = built(tmp_path, pictures_fps=12).manifest
    assert has_the_poses(clip) and (clip.width_px, clip.height_px) == (24, 18)
    assert clip.camera is not None and (clip.camera.width_px, clip.camera.height_px) == (96, 72)


def test_a_folder_that_colmap_undistorted(tmp_path):
    """images and sparse side by side; the scene has the name of its folder."""
    shutil.copytree(CAMERAS / "colmap/sparse/0", tmp_path / "dense/sparse")
    write_pictures(tmp_path / "dense/images", [f"frame_{number:06d}.png" for number in range(9)])
    made = built(tmp_path, pictures_fps=12)
    assert [clip.clip_id for clip in made.manifest] == ["dense@0"] and has_the_poses(made.manifest[0])
    [clip] = built(tmp_path / "dense", pictures_fps=12).manifest
    assert clip.clip_id == "dense@0"


def test_realestate10k_with_frames_as_pictures(tmp_path):
    """Named by their times in microseconds, which say the rate."""
    shutil.copy(CAMERAS / "realestate10k/0000cc6d8b108390.txt", tmp_path / "a.txt")
    times = [line.split()[0] for line in (tmp_path / "a.txt").read_text().splitlines()[1:]]
    write_pictures(tmp_path / "a", [f"{time}.png" for time in times])
    made = built(tmp_path)
    [clip] = made.manifest
    assert has_the_poses(clip) and clip.fps == pytest.approx(12, abs=1e-3) and not made.left_out


def test_realestate10k_with_pictures_of_other_times(tmp_path):
    """As many pictures as poses, and one of them is of another time."""
    shutil.copy(CAMERAS / "realestate10k/0000cc6d8b108390.txt", tmp_path / "a.txt")
    times = [int(line.split()[0]) for line in (tmp_path / "a.txt").read_text().splitlines()[1:]]
    times[4] += 40_000
    write_pictures(tmp_path / "a", [f"{time}.png" for time in times])
    made = built(tmp_path)
    [bad] = made.bad
    assert len(made.manifest) == 0
    assert f"pose 5 is of the time {times[4] - 40_000}, and picture 5 is {times[4]}.png; give" in bad.reason


@pytest.mark.parametrize("first_frame", [0, 3])
def test_poses_of_a_part_of_a_film_are_found_by_their_times(tmp_path, first_frame):
    shutil.copy(CAMERAS / "realestate10k/0000cc6d8b108390.mp4", tmp_path / "a.mp4")
    address, *lines = (CAMERAS / "realestate10k/0000cc6d8b108390.txt").read_text().splitlines()
    (tmp_path / "a.txt").write_text("\n".join([address, *lines[first_frame : first_frame + 5]]))
    [clip] = built(tmp_path).manifest
    assert (clip.start_frame, clip.num_frames) == (first_frame, 5) and clip.camera is not None
    poses = inverse_of(camera_to_world_T44(clip.camera, 5))[:, :3]
    assert np.abs(poses - WORLD_TO_CAMERA[first_frame : first_frame + 5]).max() < 1e-8
    (tmp_path / "a.txt").write_text("\n".join([address, *lines[:3], *lines[5:]]))
    [bad] = built(tmp_path).bad
    assert "holds 7 poses, and there are 9 frames" in bad.reason


def without_last_frame(folder: Path) -> None:
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"frames": content["frames"][:-1]}))


def test_fewer_poses_than_frames(tmp_path):
    shutil.copytree(CAMERAS / "nerfstudio", tmp_path / "video")
    without_last_frame(tmp_path / "video")
    shutil.copy(CAMERAS / "nerfstudio/transforms.json", tmp_path)
    write_pictures(tmp_path / "images", [f"frame_{number:06d}.png" for number in range(9)])
    without_last_frame(tmp_path)
    reasons = [bad.reason for bad in built(tmp_path, pictures_fps=12).bad]
    assert "holds 8 poses, and there are 9 pictures; frame_000008.png has none" in reasons[0]
    assert "holds 8 poses, and there are 9 frames" in reasons[1]


def test_pictures_of_another_shape(tmp_path):
    shutil.copytree(CAMERAS / "nerfstudio", tmp_path / "a")
    path = tmp_path / "a/transforms.json"
    path.write_text(path.read_text().replace('"w": 96', '"w": 128'))
    [bad] = built(tmp_path).bad
    assert "about pictures of 128x72 px, and these are 96x72, another shape" in bad.reason


def test_poses_that_can_not_be_read_leave_no_video_without_them(tmp_path):
    shutil.copytree(CAMERAS / "nerfstudio", tmp_path / "a")
    (tmp_path / "a/transforms.json").write_text("{torn")
    shutil.copytree(CAMERAS / "nerfstudio", tmp_path / "b")
    shutil.copy(tmp_path / "b/video.mp4", tmp_path / "b/other.mp4")
    shutil.copytree(CAMERAS / "colmap/sparse", tmp_path / "c/sparse")
    with pytest.raises(DataError, match=r"transforms\.json: .*no JSON object"):
        build_manifest(tmp_path / "a", None, None)
    made = built(tmp_path)
    assert len(made.manifest) == 0
    assert "2 videos" in made.bad[1].reason and "no video and none of the pictures" in made.bad[2].reason


def test_mirrored_poses_are_bad_by_frame(tmp_path):
    shutil.copytree(CAMERAS / "nerfstudio", tmp_path / "a")
    content = json.loads((tmp_path / "a/transforms.json").read_text())
    matrix = np.array(content["frames"][3]["transform_matrix"])
    matrix[:, 0] *= -1
    content["frames"][3]["transform_matrix"] = matrix.tolist()
    (tmp_path / "a/transforms.json").write_text(json.dumps(content))
    [bad] = built(tmp_path).bad
    assert "the matrix at frame 3 is no rotation (a mirror image)" in bad.reason


def test_two_cameras_of_one_model_are_two_videos(tmp_path):
    """Names in folders, as rigs have them."""
    text = (CAMERAS / "colmap/sparse_text/images.txt").read_text()
    shutil.copytree(CAMERAS / "colmap/sparse_text", tmp_path / "sparse")
    other = text.replace("frame_", "right/frame_")
    (tmp_path / "sparse/images.txt").write_text(text.replace("frame_", "left/frame_") + other)
    for side in ("left", "right"):
        write_pictures(tmp_path / "images" / side, [f"frame_{number:06d}.png" for number in range(9)])
    names = [clip.clip_id for clip in built(tmp_path, pictures_fps=12).manifest]
    assert names == [f"{tmp_path.name}/left@0", f"{tmp_path.name}/right@0"]
