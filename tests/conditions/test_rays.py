"""Rays lead through the pixels that they are said to be of, whatever the convention, the world's axes and the unit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import extrinsics_of
from cosmos_data.manifests.conditions import Camera, Convention
from cosmos_train.conditions.rays import plucker_6LHW, pooled_frames
from cosmos_train.config.errors import ConfigError

NUM_FRAMES, LATENT_HW, RATE = 9, (4, 6), 8
FX, FY, CX, CY = 40.0, 44.0, 25.0, 15.0


def poses(seed: int = 0) -> np.ndarray:
    """Camera to world, [T, 4, 4]: turned and moved at random."""
    generator = np.random.default_rng(seed)
    found = np.tile(np.eye(4), (NUM_FRAMES, 1, 1))
    found[:, :3, :3] = [np.linalg.qr(matrix)[0] for matrix in generator.standard_normal((NUM_FRAMES, 3, 3))]
    found[:, :3, :3] *= np.sign(np.linalg.det(found[:, :3, :3]))[:, None, None]
    found[:, :3, 3] = generator.standard_normal((NUM_FRAMES, 3))
    return found


def camera(poses_T44: np.ndarray, convention: Convention = "camera_to_world_opencv") -> Camera:
    return Camera(
        convention=convention,
        intrinsics_px=(FX, FY, CX, CY),
        height_px=32,
        width_px=48,
        extrinsics=extrinsics_of(poses_T44, convention),
    )


def rays(camera: Camera, **settings: Any) -> np.ndarray:
    given: dict[str, Any] = {"order": "moment_first", "scale": "metres", "frames": pooled_frames(2, RATE)}
    return plucker_6LHW(camera, num_frames=NUM_FRAMES, latent_HW=LATENT_HW, **(given | settings))


def test_the_fourth_of_eight_frames_stands_for_a_latent_frame():
    assert pooled_frames(3, 8).tolist() == [0, 4, 12]
    assert pooled_frames(3, 4).tolist() == [0, 2, 6]
    assert pooled_frames(3, 2).tolist() == [0, 1, 3]
    assert pooled_frames(3, 1).tolist() == [0, 1, 2]
    assert pooled_frames(1, 8).tolist() == [0]


def test_a_point_on_a_ray_is_seen_at_the_middle_of_its_cell():
    """The projection of the closest point to the origin, and of one beyond it, by the frame's own matrix."""
    poses_T44 = poses()
    found = rays(camera(poses_T44)).astype(np.float64)
    in_first = np.linalg.inv(poses_T44[0]) @ poses_T44[[0, 4]]
    moment, direction = found[:3], found[3:]
    np.testing.assert_allclose(np.linalg.norm(direction, axis=0), 1, atol=1e-6)
    closest = np.cross(direction, moment, axis=0)
    for latent, pose_44 in enumerate(in_first):
        world_to_camera = np.linalg.inv(pose_44)
        for y in range(LATENT_HW[0]):
            for x in range(LATENT_HW[1]):
                point = closest[:, latent, y, x] + 10 * direction[:, latent, y, x]
                seen = world_to_camera[:3, :3] @ point + world_to_camera[:3, 3]
                place_px = FX * seen[0] / seen[2] + CX, FY * seen[1] / seen[2] + CY
                np.testing.assert_allclose(place_px, ((x + 0.5) * 8, (y + 0.5) * 8), atol=1e-3)
                assert seen[2] > 0, "the ray leads ahead"


@pytest.mark.parametrize("convention", ["world_to_camera_opencv", "camera_to_world_opengl"])
def test_any_convention_gives_the_same(convention: Convention):
    np.testing.assert_allclose(rays(camera(poses(), convention)), rays(camera(poses())), atol=1e-5)


def test_the_worlds_axes_do_not_matter():
    moved = poses(seed=1)[0] @ poses()
    np.testing.assert_allclose(rays(camera(moved)), rays(camera(poses())), atol=1e-5)


def test_orders_differ_in_their_halves_alone():
    moment_first, direction_first = rays(camera(poses())), rays(camera(poses()), order="direction_first")
    np.testing.assert_array_equal(direction_first, np.concatenate([moment_first[3:], moment_first[:3]]))


def test_a_clip_of_unknown_scale_and_one_in_metres():
    larger = poses()
    larger[:, :3, 3] *= 2
    np.testing.assert_allclose(rays(camera(larger), scale="clip"), rays(camera(poses()), scale="clip"), atol=1e-5)
    np.testing.assert_allclose(rays(camera(larger))[:3], 2 * rays(camera(poses()))[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rays(camera(larger), unit_m=2.0), rays(camera(poses())), atol=1e-5)
    centres = poses()[:, :3, 3]
    farthest = max(np.linalg.norm(one - other) for one in centres for other in centres)
    np.testing.assert_allclose(rays(camera(poses()), scale="clip")[:3] * farthest, rays(camera(poses()))[:3], atol=1e-4)


def test_a_camera_that_stands_still_has_no_moment():
    still = replace(camera(poses()), extrinsics=camera(poses()).extrinsics[:12])
    for scale in ("clip", "metres"):
        assert np.abs(rays(still, scale=scale)[:3]).max() < 1e-12


def test_complaint_13_intrinsics_of_another_picture_are_refused():
    with pytest.raises(ConfigError, match=r"64 x 32 px.*after its crop"):
        rays(replace(camera(poses()), width_px=64))


def test_what_is_no_rotation_or_too_short_is_refused():
    mirrored = poses()
    mirrored[3, :3, 0] *= -1
    with pytest.raises(DataError, match="at frame 3 is no rotation"):
        rays(camera(mirrored))
    with pytest.raises(DataError, match="96 values"):
        rays(camera(poses()[:-1]))
