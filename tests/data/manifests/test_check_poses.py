"""Poses are proven from the pictures: each wrong convention is named with the right one, and so are wrong intrinsics.

Footage of the simulated room, whose poses are exact, and of the fixtures of file formats, coded as H.264.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

from cosmos_data.geometry.epipolar import AnyConvention, Matches, poses_by_convention, residuals_px
from cosmos_data.geometry.poses import FLIP_Y_AND_Z, extrinsics_of, inverse_of
from cosmos_data.geometry.tracks import follow
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.check_poses import PoseProof, judged, prove_poses
from cosmos_data.manifests.conditions import Camera, Convention
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.simulate.clips import SimulatedView
from cosmos_data.simulate.config import RoomConfig
from cosmos_data.simulate.room import Room
from cosmos_launch.cli.data import check

CAMERAS = Path(__file__).parents[1] / "readers/formats/cameras"
HEIGHT_PX, WIDTH_PX, NUM_FRAMES = 72, 96, 25
CONVENTIONS: tuple[AnyConvention, ...] = get_args(AnyConvention)


@pytest.fixture(scope="module")
def room() -> SimulatedView:
    config = RoomConfig(height_px=HEIGHT_PX, width_px=WIDTH_PX, num_frames=NUM_FRAMES)
    return Room(config).clip(seed=2).views[0]


@pytest.fixture(scope="module")
def pairs(room: SimulatedView) -> list[Matches]:
    gray = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in room.pictures_THW3]
    followed = [follow(gray[start : start + 24], start) for start in range(0, NUM_FRAMES - 4, 4)]
    return [matches for matches in followed if matches is not None]


def stored_as(camera: Camera, convention: AnyConvention, declared: Convention) -> Camera:
    """The room's poses as a file of that convention has them, said to be another."""
    poses = poses_by_convention(camera.extrinsics_T34(NUM_FRAMES))["camera_to_world_opencv"]
    if convention == "world_to_camera_opengl":
        matrices = inverse_of(poses @ FLIP_Y_AND_Z)[:, :3]
        extrinsics = tuple(matrices.ravel().tolist())
    else:
        extrinsics = extrinsics_of(poses, convention)
    return replace(camera, convention=declared, extrinsics=extrinsics)


def proven(camera: Camera, pairs: Sequence[Matches]) -> PoseProof:
    return judged("clip", camera, NUM_FRAMES, HEIGHT_PX, WIDTH_PX, pairs)


@pytest.mark.parametrize("convention", get_args(Convention))
def test_a_right_convention_fits(room, pairs, convention):
    proof = proven(stored_as(room.camera, convention, convention), pairs)
    assert proof.fault == "" and list(proof.findings()) == []
    own = proof.residual_px[convention]
    assert own < 0.15
    assert all(other > 10 * own for name, other in proof.residual_px.items() if name != convention)
    assert proof.floor_px < own and f"{convention} {own:.2f} px (floor" in proof.line


@pytest.mark.parametrize(
    ("right", "declared"), [pair for pair in permutations(CONVENTIONS, 2) if pair[1] in get_args(Convention)]
)
def test_complaint_12_each_wrong_convention_is_named_with_the_right_one(room, pairs, right, declared):
    proof = proven(stored_as(room.camera, right, declared), pairs)
    assert proof.fault.startswith(f"its poses are {right} and not {declared}: ")
    [finding] = proof.findings()
    assert finding.level == "error" and "WRONG" in proof.line
    remedy = "store the inverses" if right == "world_to_camera_opengl" else f"say convention {right}"
    assert remedy in finding.text


@pytest.mark.parametrize(
    "change",
    [
        lambda fx, fy, cx, cy: (1.4 * fx, 1.4 * fy, cx, cy),
        lambda fx, fy, cx, cy: (fx, fy, cx - 24, cy - 8),  # of a picture before it was cropped
        lambda fx, fy, cx, cy: (0.6 * fx, fy, 0.6 * cx, cy),  # cropped to another shape, then scaled
    ],
)
def test_complaint_13_intrinsics_of_another_picture_are_named_with_those_that_fit(room, pairs, change):
    """They were not changed with a crop."""
    camera = replace(room.camera, intrinsics_px=change(*room.camera.intrinsics_px))
    proof = proven(camera, pairs)
    assert proof.fault.startswith("its intrinsics are not those of these pictures: ")
    fitted = [float(word) for word in proof.fault.partition(" px, ")[2].split()[:4]]
    assert fitted == pytest.approx(room.camera.intrinsics_px, rel=0.05)


def test_poses_of_another_clip_are_told(room, pairs):
    other = Room(RoomConfig(height_px=HEIGHT_PX, width_px=WIDTH_PX, num_frames=NUM_FRAMES)).config
    poses = Room(other).clip(seed=7).views[0].camera.extrinsics
    proof = proven(replace(room.camera, extrinsics=poses), pairs)
    assert "no convention explains the pictures" in proof.fault


def test_a_translation_with_the_wrong_sign_does_not_fit():
    """It has the same epipolar lines: only depth behind the camera tells."""
    points = np.random.default_rng(0).uniform((-2, -1, 2), (2, 1, 6), (40, 3))
    poses = np.stack([np.eye(4)] * 2)
    poses[1, 0, 3] = 0.3
    seen = [(points - pose[:3, 3]) @ np.diag([80.0, 80.0, 1]) for pose in poses]
    first, second = (one[:, :2] / one[:, 2:] + (48, 36) for one in seen)
    matches = Matches(
        first_frame_N=np.zeros(40, int), second_frame_N=np.ones(40, int), first_px_N2=first, second_px_N2=second
    )
    intrinsics = np.array([[80.0, 80.0, 48.0, 36.0]] * 2)
    assert residuals_px(matches, poses, intrinsics).max() < 1e-9
    assert np.median(residuals_px(matches, inverse_of(poses), intrinsics)) > 3
    still = np.stack([np.eye(4)] * 2)
    assert np.median(residuals_px(matches, still, intrinsics)) > 3, "nothing moved, and yet it did"


def test_a_camera_that_stands_still_proves_nothing(room, pairs):
    flat = [np.full((HEIGHT_PX, WIDTH_PX), 128, np.uint8)] * 3
    still = [cv2.cvtColor(room.pictures_THW3[0], cv2.COLOR_RGB2GRAY)] * 3
    assert follow(flat, 0) is None and follow(still, 0) is None
    proof = proven(room.camera, [])
    [finding] = proof.findings()
    assert finding.level == "warning" and "not proven" in proof.line


def matches_of_a_moving_square(first_frame: int) -> list[Matches]:
    """Six pairs of frames of a chequered square that goes right before a wall without a mark."""
    square = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.ones((6, 6))).astype(np.uint8) * 200
    pictures = [np.full((HEIGHT_PX, WIDTH_PX), 100, np.uint8) for _ in range(12)]
    for number, gray_HW in enumerate(pictures):
        gray_HW[12:60, 4 + 3 * number : 52 + 3 * number] = square
    followed = [follow(pictures[start:], first_frame + start) for start in range(6)]
    return [matches for matches in followed if matches is not None]


def test_things_that_move_before_a_camera_that_stands_still_prove_nothing(room):
    moved_T34 = room.camera.extrinsics_T34(NUM_FRAMES)
    still = replace(room.camera, extrinsics=tuple(np.tile(moved_T34[-1], (NUM_FRAMES, 1)).ravel().tolist()))
    matches = matches_of_a_moving_square(0)
    assert len(matches) == 6 and sum(map(len, matches)) > 100
    proof = proven(still, matches)
    assert proof.fault == "" and "not proven" in proof.line


def test_right_poses_fit_though_things_move_after_the_camera_has_stopped(room, pairs):
    moved_T34 = room.camera.extrinsics_T34(NUM_FRAMES)
    stopped_T34 = np.concatenate([moved_T34, np.repeat(moved_T34[-1:], 12, axis=0)])
    camera = replace(room.camera, extrinsics=tuple(stopped_T34.ravel().tolist()))
    matches = [*pairs, *matches_of_a_moving_square(NUM_FRAMES) * 3]
    proof = judged("clip", camera, NUM_FRAMES + 12, HEIGHT_PX, WIDTH_PX, matches)
    assert proof.fault == "" and proof.residual_px[camera.convention] < 0.15


def test_files_of_every_format_are_proven_and_a_wrong_one_is_an_error(tmp_path, capsys):
    """Through the command: coded videos, a manifest on disk, exit code and lines."""
    built = build_manifest(CAMERAS, None, None).manifest
    built.write(tmp_path / "right.arrow")
    assert check(tmp_path / "right.arrow", target_fps=None, poses=True, out=None) == 0
    assert capsys.readouterr().out.count("it fits") == 3
    nerfstudio = next(clip for clip in built if "nerfstudio" in clip.clip_id)
    assert nerfstudio.camera is not None
    wrong = replace(nerfstudio.camera, convention="camera_to_world_opencv")
    Manifest((replace(nerfstudio, camera=wrong),)).write(tmp_path / "wrong.arrow")
    assert check(tmp_path / "wrong.arrow", target_fps=None, poses=True, out=tmp_path / "found.txt") == 2
    said = (tmp_path / "found.txt").read_text()
    assert "its poses are camera_to_world_opengl and not camera_to_world_opencv" in said
    assert "1 errors" in capsys.readouterr().out


def test_pictures_of_another_size_and_impossible_cameras_are_passed_over(tmp_path):
    [clip, *_] = build_manifest(CAMERAS / "nerfstudio", None, None).manifest
    assert clip.camera is not None
    bigger = clip.camera.cropped(top_px=0, left_px=0, height_px=720, width_px=960, of_height_px=720, of_width_px=960)
    [proof] = prove_poses(Manifest((replace(clip, camera=bigger),)))
    assert proof.fault == "" and proof.residual_px["camera_to_world_opengl"] < 0.4
    short = replace(clip.camera, extrinsics=clip.camera.extrinsics[:24])
    assert list(prove_poses(Manifest((replace(clip, camera=short),)))) == []


def test_a_wrong_convention_with_wrong_intrinsics_is_named_too(room, pairs):
    camera = stored_as(room.camera, "world_to_camera_opencv", "camera_to_world_opencv")
    fx, fy, cx, cy = camera.intrinsics_px
    proof = proven(replace(camera, intrinsics_px=(2 * fx, 2 * fy, cx + 20, cy)), pairs)
    assert proof.fault.startswith("its poses are world_to_camera_opencv and not camera_to_world_opencv")
