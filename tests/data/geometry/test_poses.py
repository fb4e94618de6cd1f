"""Poses come back from every convention and from the actions that are made of them."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import (
    anchored_deltas,
    camera_to_world_T44,
    check_poses,
    compose_anchored,
    compose_framewise,
    extrinsics_of,
    framewise_deltas,
    inverse_of,
    poses_of,
    relative_to,
)
from cosmos_data.geometry.rotations import from_euler
from cosmos_data.manifests.conditions import Camera, Convention

NUM_FRAMES = 9


def path_T44(seed: int = 0) -> np.ndarray:
    """Poses that wander: turns up to 0.3 rad and moves of some centimetres a step."""
    random = np.random.default_rng(seed)
    turns = from_euler(random.uniform(-0.3, 0.3, (NUM_FRAMES, 3)), "xyz")
    steps = poses_of(random.normal(size=(NUM_FRAMES, 3)) * 0.05, turns)
    return compose_framewise(poses_of(np.array([[0.3, -0.2, 1.0]]), turns[:1])[0], steps[1:])


def camera_of(poses_T44: np.ndarray, convention: Convention) -> Camera:
    extrinsics = extrinsics_of(poses_T44, convention)
    return Camera(
        convention=convention, intrinsics_px=(64.0, 64.0, 48.0, 36.0), height_px=72, width_px=96, extrinsics=extrinsics
    )


@pytest.mark.parametrize("convention", get_args(Convention))
def test_poses_of_any_convention_are_the_same(convention):
    poses = path_T44()
    assert np.abs(camera_to_world_T44(camera_of(poses, convention), NUM_FRAMES) - poses).max() < 1e-12


def test_conventions_place_a_camera_where_they_say():
    """A camera at (1, 2, 3) that looks along the world's z, its picture's right along x, its picture's down along y."""
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    said = {name: np.reshape(extrinsics_of(pose[None], name), (3, 4)) for name in get_args(Convention)}
    assert said["camera_to_world_opencv"][:, 3].tolist() == [1, 2, 3]
    assert said["world_to_camera_opencv"][:, 3].tolist() == [-1, -2, -3]
    assert said["camera_to_world_opengl"][:, :3].tolist() == np.diag([1, -1, -1]).tolist()


def test_a_still_camera_has_a_pose_for_each_frame():
    camera = camera_of(path_T44()[:1], "world_to_camera_opencv")
    assert np.abs(camera_to_world_T44(camera, 5) - path_T44()[0]).max() < 1e-12


def test_relative_poses_begin_at_the_identity_whatever_the_world():
    poses, elsewhere = path_T44(), path_T44(1)[3]
    relative = relative_to(poses, poses[0])
    assert np.allclose(relative[0], np.eye(4))
    assert np.abs(relative_to(elsewhere @ poses, elsewhere @ poses[0]) - relative).max() < 1e-12
    assert np.abs(poses[0] @ relative - poses).max() < 1e-12


def test_backward_deltas_are_seen_from_the_earlier_pose():
    poses = path_T44()
    deltas = framewise_deltas(poses)
    R_before = poses[3, :3, :3]
    assert np.allclose(deltas[3, :3, 3], R_before.T @ (poses[4, :3, 3] - poses[3, :3, 3]))
    assert np.allclose(deltas[3, :3, :3], R_before.T @ poses[4, :3, :3])
    assert len(deltas) == NUM_FRAMES - 1


def test_composed_actions_give_back_the_states():
    poses = path_T44()
    assert np.abs(compose_framewise(poses[0], framewise_deltas(poses)) - poses).max() < 1e-12
    assert np.abs(compose_anchored(poses[0], anchored_deltas(poses)) - poses).max() < 1e-12
    assert np.allclose(anchored_deltas(poses)[0], np.eye(4))


def test_complaint_14_a_path_and_its_inverse_return_to_the_start():
    """Deltas that are read as absolute, or from the wrong end, do not."""
    poses = path_T44()
    deltas = framewise_deltas(poses)
    back = inverse_of(deltas)[::-1]
    there_and_back = compose_framewise(poses[0], np.concatenate([deltas, back]))
    assert np.abs(there_and_back - np.concatenate([poses, poses[-2::-1]])).max() < 1e-12
    mistaken = compose_framewise(poses[0], anchored_deltas(poses)[1:])
    assert np.abs(mistaken[-1] - poses[-1]).max() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda poses: poses[4].__setitem__((0, 3), np.nan), "nan at frame 4"),
        (lambda poses: poses[2].__setitem__((0, slice(3)), poses[2, 0, :3] * 1.01), "at frame 2 is no rotation"),
        (lambda poses: poses[5].__setitem__(0, -poses[5, 0]), r"at frame 5 is no rotation \(a mirror image\)"),
    ],
)
def test_impossible_poses_are_refused_by_frame(change, words):
    poses = path_T44()
    change(poses)
    camera = camera_of(poses, "camera_to_world_opencv")
    with pytest.raises(DataError, match=words):
        camera_to_world_T44(camera, NUM_FRAMES)
    with pytest.raises(DataError, match=words.replace("nan at", "at")):
        check_poses("path", poses)


def test_other_shapes_are_refused():
    camera = camera_of(path_T44(), "camera_to_world_opencv")
    with pytest.raises(DataError, match="12 for each of 8 frames"):
        camera_to_world_T44(camera, NUM_FRAMES - 1)
    with pytest.raises(DataError, match="convention 'opencv'"):
        camera_to_world_T44(replace(camera, convention="opencv"), NUM_FRAMES)
    with pytest.raises(DataError, match="shape"):
        check_poses("path", path_T44()[:, :3])
    with pytest.raises(DataError, match="the last row at step 0"):
        check_poses("path", np.swapaxes(path_T44(), 1, 2), unit="step")
