"""The room: bit for bit the same everywhere, its cameras exact, its depth and its instances those of its pictures."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Camera
from cosmos_data.simulate.camera_path import camera_path_T34
from cosmos_data.simulate.clips import SimulatedClip
from cosmos_data.simulate.config import NUM_SPHERE_COLORS, RoomConfig
from cosmos_data.simulate.room import (
    CAMERA_HIGH_M,
    CAMERA_LOW_M,
    CHECK_M,
    HIGH_M,
    LOW_M,
    SIDES,
    SPHERE_COLORS_RGB,
    Room,
)

CONFIG = RoomConfig(num_frames=17)
DIGEST = "b4521f813a8ca3623b8b4a90031350d0fa092106e1275bbc0adbe3c59722515a"
"""SHA-256 of pictures, depth, instances and extrinsics of seed 1: another machine, numpy or edit must not change it."""


@pytest.fixture(scope="module")
def clip() -> SimulatedClip:
    """Seed 1, in which two spheres are seen in every frame."""
    return Room(CONFIG).clip(1)


def arrays_of(clip: SimulatedClip) -> tuple[np.ndarray, np.ndarray, np.ndarray, Camera]:
    """Pictures, depth, instances and the camera."""
    [view] = clip.views
    assert view.depth_m_THW is not None and view.instances_THW is not None and view.camera is not None
    return view.pictures_THW3, view.depth_m_THW, view.instances_THW, view.camera


def projected(points_N3: np.ndarray, camera: Camera, frame: int, num_frames: int) -> np.ndarray:
    """Pixels (right, down) and depth, [N, 3], of points of the world, as the record of the camera says."""
    pose = camera.extrinsics_T34(num_frames)[frame]
    fx, fy, cx, cy = camera.intrinsics_T4(num_frames)[frame]
    seen = (points_N3 - pose[:, 3]) @ pose[:, :3]
    return np.stack([fx * seen[:, 0] / seen[:, 2] + cx, fy * seen[:, 1] / seen[:, 2] + cy, seen[:, 2]], axis=1)


def mean_miss_px(clip: SimulatedClip, camera: Camera) -> float:
    """How far the spheres are, in the mean, from where the camera puts their centres; those seen whole count."""
    _, _, instances, _ = arrays_of(clip)
    spheres = Room(CONFIG).scene(1).spheres
    misses = []
    for frame, picture in enumerate(instances):
        for number, sphere in enumerate(spheres, start=len(SIDES)):
            rows, columns = np.nonzero(picture == number)
            if len(rows) < 12 or min(*rows, *columns) == 0 or max(*rows, *columns) == 31:
                continue
            [[right, down, _]] = projected(np.array([sphere.center_m]), camera, frame, len(instances))
            misses.append(np.hypot(columns.mean() + 0.5 - right, rows.mean() + 0.5 - down))
    assert len(misses) > 5, "enough is seen to judge by"
    return float(np.mean(misses))


def test_a_seed_is_one_clip_bit_for_bit(clip: SimulatedClip):
    *arrays, camera = arrays_of(clip)
    sha256 = hashlib.sha256()
    for array in (*arrays, np.array(camera.extrinsics)):
        sha256.update(np.ascontiguousarray(array).tobytes())
    assert sha256.hexdigest() == DIGEST


def test_known_points_are_seen_where_the_camera_says(clip: SimulatedClip):
    """Centres of spheres; and no other convention, and no pixel counted from its centre, would do."""
    *_, camera = arrays_of(clip)
    assert mean_miss_px(clip, camera) < 0.4
    turned = camera.extrinsics_T34(17).copy()
    turned[:, :, 1:3] *= -1  # read as OpenGL's axes: what was ahead is behind
    assert mean_miss_px(clip, replace(camera, extrinsics=tuple(turned.ravel().tolist()))) > 2
    fx, fy, cx, cy = camera.intrinsics_px
    assert mean_miss_px(clip, replace(camera, intrinsics_px=(fx, fy, cx - 0.5, cy - 0.5))) > 0.5
    late = np.roll(camera.extrinsics_T34(17), 1, axis=0)
    assert mean_miss_px(clip, replace(camera, extrinsics=tuple(late.ravel().tolist()))) > 0.5


def test_depth_leads_to_the_surface_that_is_seen(clip: SimulatedClip):
    """Every pixel's centre, taken back into the room by its depth, lies on the thing that instances name there."""
    _, depth, instances, camera = arrays_of(clip)
    scene = Room(CONFIG).scene(1)
    rows, columns = np.mgrid[:32, :32] + 0.5
    fx, fy, cx, cy = camera.intrinsics_px
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones_like(rows)], axis=-1)
    for pose, depth_HW, instances_HW in zip(camera.extrinsics_T34(17), depth, instances, strict=True):
        points = (depth_HW[..., None] * rays) @ pose[:, :3].T + pose[:, 3]
        for number, bound in enumerate(np.stack([LOW_M, HIGH_M], axis=1).ravel()):
            on_side = points[instances_HW == number][:, number // 2]
            assert np.abs(on_side - bound).max(initial=0) < 1e-5
        for number, sphere in enumerate(scene.spheres, start=len(SIDES)):
            from_center = points[instances_HW == number] - sphere.center_m
            assert np.abs(np.linalg.norm(from_center, axis=1) - sphere.radius_m).max(initial=0) < 1e-5
            assert (np.einsum("nk,nk->n", from_center, points[instances_HW == number] - pose[:, 3]) < 0).all(), "front"


def test_squares_have_the_tones_of_their_side(clip: SimulatedClip):
    """Taken back into the room, pixels within a square of the floor have the tone of the square's parity."""
    pictures, depth, instances, camera = arrays_of(clip)
    color = np.array(Room(CONFIG).scene(1).side_colors_rgb[SIDES.index("floor")])
    rows, columns = np.mgrid[:32, :32] + 0.5
    fx, fy, cx, cy = camera.intrinsics_px
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones_like(rows)], axis=-1)
    judged = right = 0
    for pose, picture, depth_HW, instances_HW in zip(
        camera.extrinsics_T34(17), pictures, depth, instances, strict=True
    ):
        points = (depth_HW[..., None] * rays) @ pose[:, :3].T + pose[:, 3]
        within = np.abs((points[..., :2] / CHECK_M) % 1 - 0.5).max(axis=-1) < 0.2
        is_judged = within & (instances_HW == SIDES.index("floor")) & (depth_HW < 2)
        is_dark = np.floor(points[..., :2] / CHECK_M).sum(axis=-1)[is_judged] % 2 == 1
        shown = picture[is_judged].astype(int)
        right += np.count_nonzero(
            np.where(is_dark, shown.sum(axis=1) < 0.6 * color.sum(), np.abs(shown - color).max(axis=1) < 3)
        )
        judged += len(shown)
    assert judged > 200 and right > 0.95 * judged, "all but those that a sphere touches"


def test_the_room_is_one_and_the_path_is_the_seeds():
    fixed, other = Room(CONFIG), Room(replace(CONFIG, scene_seed=1))
    assert fixed.scene(0) == fixed.scene(1) != other.scene(0)
    each = Room(replace(CONFIG, scenes="random"))
    assert each.scene(0) != each.scene(1) and each.scene(1) == other.scene(0)
    assert not np.array_equal(arrays_of(fixed.clip(0))[0], arrays_of(fixed.clip(1))[0])


def test_cameras_stay_in_their_box_and_move_smoothly():
    config = replace(CONFIG, num_frames=200)
    for seed in range(10):
        poses = camera_path_T34(seed, config, CAMERA_LOW_M, CAMERA_HIGH_M)
        assert (poses[:, :, 3] >= CAMERA_LOW_M).all() and (poses[:, :, 3] <= CAMERA_HIGH_M).all()
        rotations = poses[:, :, :3]
        assert np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
        assert np.linalg.det(rotations).min() > 0.999
        assert (rotations[:, 2, 1] < -0.8).all(), "the picture's down is the room's"
        moves = np.diff(poses[:, :, 3], axis=0)
        assert (
            np.linalg.norm(moves, axis=1).max() < 0.15 and np.linalg.norm(np.diff(moves, axis=0), axis=1).max() < 0.03
        )
        shorter = camera_path_T34(seed, CONFIG, CAMERA_LOW_M, CAMERA_HIGH_M)
        assert np.array_equal(poses[:17], shorter), "a longer path begins as a shorter one"


def test_spheres_stay_out_of_the_camera_box():
    assert len(SPHERE_COLORS_RGB) == NUM_SPHERE_COLORS
    for seed in range(20):
        for sphere in Room(replace(CONFIG, scenes="random", num_spheres=8)).scene(seed).spheres:
            nearest = np.clip(sphere.center_m, CAMERA_LOW_M, CAMERA_HIGH_M)
            assert np.linalg.norm(nearest - sphere.center_m) > sphere.radius_m + 0.05
            low, high = np.subtract(sphere.center_m, LOW_M), np.subtract(HIGH_M, sphere.center_m)
            assert min(*low, *high) > sphere.radius_m - 1e-9, "within the room"


def test_pictures_may_have_any_even_size():
    pictures, _, _, camera = arrays_of(Room(replace(CONFIG, height_px=24, width_px=48, num_frames=2)).clip(0))
    assert pictures.shape == (2, 24, 48, 3) and (camera.height_px, camera.width_px) == (24, 48)
    with pytest.raises(DataError, match="height_px=23 must be even"):
        replace(CONFIG, height_px=23)
    with pytest.raises(DataError, match="num_spheres=9 must be from 0 to the 8 colours"):
        replace(CONFIG, num_spheres=9)
