"""A camera's path is found again in a known room from pixels alone, and compared with what was commanded."""

import numpy as np
import pytest

from cosmos_data.geometry.poses import camera_to_world_T44, poses_of
from cosmos_data.geometry.rotations import angle_between_rad, from_euler
from cosmos_data.simulate.config import RoomConfig
from cosmos_data.simulate.room import Room
from cosmos_train.evaluate.following.camera import camera_figures, rotation_error_deg, translation_error
from cosmos_train.evaluate.following.camera_pose import PoseEstimator, blurred, moved

ROOM = Room(RoomConfig(num_frames=17, height_px=24, width_px=24))
SCENE = ROOM.scene(0)
SEEDS = (104, 105)
FRAMES = np.array([0, 4, 8, 12, 16])


def render(poses_N44: np.ndarray) -> np.ndarray:
    return ROOM.filmed(SCENE, poses_N44[:, :3]).views[0].pictures_THW3


@pytest.fixture(scope="module")
def paths_BT44() -> np.ndarray:
    paths = []
    for seed in SEEDS:
        camera = ROOM.clip(seed).views[0].camera
        assert camera is not None
        paths.append(camera_to_world_T44(camera, 17)[FRAMES])
    return np.stack(paths)


def test_a_path_is_found_again_in_blurred_and_noisy_frames(paths_BT44: np.ndarray):
    """As generated frames are; each step of these turns by several degrees, which the estimator is not told."""
    noise = np.random.default_rng(0)
    found = []
    for path_T44 in paths_BT44:
        pictures = blurred(render(path_T44), 0.6)
        noisy = np.clip(pictures + noise.normal(size=pictures.shape) * 6, 0, 255).astype(np.uint8)
        found.append(PoseEstimator(render=render).track(noisy, path_T44[0]))
    turned_deg = np.degrees(angle_between_rad(paths_BT44[:, -1, :3, :3], paths_BT44[:, 0, :3, :3]))
    assert turned_deg.min() > 9
    rotation, translation = camera_figures(np.stack(found), np.stack(found), paths_BT44, is_scale_known=True)
    assert rotation.value < 1.0 < 5 < rotation.ceiling, "of the other clip's path"
    assert translation.value < 0.15 < 0.5 < translation.ceiling
    assert str(rotation).startswith("camera rotation error: ") and str(rotation).endswith("; 2 clips)")


def turned(*degrees: float) -> np.ndarray:
    """Poses [1, T, 4, 4] that go ahead by 1 a frame and turn to the right."""
    angles_T3 = np.radians([[0, degree, 0] for degree in degrees])
    places_T3 = np.array([[0, 0, frame] for frame in range(len(degrees))], dtype=float)
    return poses_of(places_T3, from_euler(angles_T3, "XYZ"))[None]


def test_errors_are_relative_to_the_first_frame():
    """Another origin and other axes change nothing."""
    elsewhere_44 = poses_of(np.array([[5.0, 1, 2]]), from_euler(np.array([[0.3, 0.2, 0.1]]), "XYZ"))[0]
    commanded = turned(0, 10, 20)
    assert rotation_error_deg(elsewhere_44 @ commanded, commanded) == pytest.approx(0, abs=1e-6)
    assert translation_error(elsewhere_44 @ commanded, commanded, is_scale_known=True) == pytest.approx(0, abs=1e-9)
    assert rotation_error_deg(turned(0, 12, 22), commanded) == pytest.approx(2)


def test_scale_counts_where_it_is_known():
    """Half of the way is half of the move short at its end; where the scale is free it is as good as all of it."""
    commanded = turned(0, 0, 0)
    half = commanded.copy()
    half[..., :3, 3] /= 2
    assert translation_error(half, commanded, is_scale_known=True) == pytest.approx(np.median([0.25, 0.5]))
    assert translation_error(half, commanded, is_scale_known=False) == pytest.approx(0)
    back = commanded.copy()
    back[..., :3, 3] *= -1
    assert translation_error(back, commanded, is_scale_known=False) >= 0.5, "the opposite way is no scale"


def test_cameras_that_stay_do_not_count_for_translation():
    still = np.broadcast_to(np.eye(4), (1, 3, 4, 4))
    assert np.isnan(translation_error(still, still, is_scale_known=True))


def test_a_pose_is_moved_in_its_own_axes():
    quarter_44 = turned(0, 90)[0, 1]
    [ahead] = moved(quarter_44, np.array([[0, 0, 0, 0, 0, 2.0]]))
    np.testing.assert_allclose(ahead[:3, 3], [2, 0, 1], atol=1e-12)
