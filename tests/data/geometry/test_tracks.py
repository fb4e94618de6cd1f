"""Corners are where a manifest counts pixels, and are followed to where they went."""

import numpy as np

from cosmos_data.geometry.epipolar import Matches
from cosmos_data.geometry.tracks import floor_px, follow

CENTRES_PX = np.array([[25, 22], [75, 22], [25, 58], [75, 58]])
"""Of four bright squares of 16 px, right and down: an edge at 17 lies between pixels 16 and 17."""


def picture(moved_px: int) -> np.ndarray:
    gray_HW = np.full((80, 120), 40, np.uint8)
    for right, down in CENTRES_PX + np.array([moved_px, 0]):
        gray_HW[down - 8 : down + 8, right - 8 : right + 8] = 200
    return gray_HW


def test_corners_are_counted_from_the_picture_s_corner_and_followed():
    matches = follow([picture(moved) for moved in (0, 2, 4, 6, 8, 10, 12)], first_frame=5)
    assert matches is not None and len(matches) >= 12
    assert set(matches.first_frame_N) == {5}
    [last] = set(matches.second_frame_N)
    moved = matches.second_px_N2 - matches.first_px_N2
    assert np.abs(moved - (2 * (last - 5), 0)).max() < 0.1
    assert np.abs(matches.first_px_N2.mean(axis=0) - CENTRES_PX.mean(axis=0)).max() < 0.1
    assert 6 <= last <= 10, "no further than it needs"


def test_the_floor_is_what_no_camera_explains():
    """Points of a moving camera have none; with noise it is about the noise."""
    random = np.random.default_rng(0)
    points = random.uniform((-2, -1.5, 2), (2, 1.5, 6), (200, 3))
    first, second = ((points - place) @ np.diag([100.0, 100.0, 1]) for place in ((0, 0, 0), (0.4, 0.1, 0.2)))
    seen = [one[:, :2] / one[:, 2:] + (64, 48) for one in (first, second)]
    frames = {"first_frame_N": np.zeros(200, int), "second_frame_N": np.ones(200, int)}
    exact = floor_px(Matches(first_px_N2=seen[0], second_px_N2=seen[1], **frames))
    noisy = floor_px(Matches(first_px_N2=seen[0], second_px_N2=seen[1] + random.normal(size=(200, 2)) * 0.5, **frames))
    assert np.median(exact) < 1e-3 and 0.05 < np.median(noisy) < 0.5
