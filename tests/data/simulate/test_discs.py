"""Bouncing discs: the same for a seed wherever they are made, of the colours that the caption says."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.simulate.config import NUM_DISC_COLORS, DiscsConfig
from cosmos_data.simulate.discs import COLORS_RGB, Discs, caption_of, discs_of, render

WORLD = DiscsConfig(num_frames=9)
PINNED = ("red", 4.483098)
"""Colour and radius of the first disc of seed 0."""


def test_a_seed_is_one_world():
    """Another numpy, or an edit, must not change it."""
    assert np.array_equal(render(5, WORLD), render(5, WORLD))
    assert not np.array_equal(render(5, WORLD), render(6, WORLD))
    first = discs_of(0, WORLD)[0]
    assert (first.color, round(first.radius_px, 6)) == PINNED


def test_discs_stay_inside_and_keep_their_speed():
    for seed in range(20):
        for disc in discs_of(seed, WORLD):
            places = [disc.place_at(frame / 8, WORLD) for frame in range(8 * 200)]
            for down, right in places:
                assert disc.radius_px <= down <= WORLD.height_px - disc.radius_px
                assert disc.radius_px <= right <= WORLD.width_px - disc.radius_px
            steps = sorted(math.dist(a, b) * 8 for a, b in pairwise(places))
            speed = math.hypot(*disc.velocity_px)
            assert WORLD.min_speed_px <= speed <= WORLD.max_speed_px
            assert steps[len(steps) // 2] == pytest.approx(speed) and steps[-1] == pytest.approx(speed), "but at walls"


def test_where_a_disc_goes_does_not_show_in_one_frame():
    """The same first frame with velocities turned round is as likely: directions have no part in it."""
    frame = render(7, WORLD)[0]
    still = replace(WORLD, min_speed_px=0.001, max_speed_px=0.001)
    assert np.array_equal(frame, render(7, still)[0])
    assert not np.array_equal(render(7, WORLD)[4], render(7, still)[4])


def test_there_are_as_many_colors_as_discs_may_be():
    assert len(COLORS_RGB) == NUM_DISC_COLORS


def test_pictures_are_of_the_colours_in_the_caption():
    for seed in range(5):
        colors = [disc.color for disc in discs_of(seed, WORLD)]
        assert len(set(colors)) == WORLD.num_discs
        assert caption_of(seed, WORLD) == " and ".join(f"a {color} disc" for color in colors)
        front = discs_of(seed, WORLD)[-1]
        down, right = (int(place) for place in front.place_at(0, WORLD))
        shown = render(seed, WORLD)[0, down, right] / 255
        assert shown.tolist() == pytest.approx(COLORS_RGB[front.color], abs=0.01)


def test_instances_lie_where_the_discs_are():
    clip = Discs(WORLD).clip(3)
    [view] = clip.views
    assert view.instances_THW is not None
    rows, columns = np.mgrid[:32, :32] + 0.5
    seen = {int(number) for number in np.unique(view.instances_THW)}
    assert seen <= {0, 1, 2} and len(clip.instance_names) == 3
    for frame, (right, down) in enumerate(clip.states["discs_px_TN2"][:, -1]):
        front = view.instances_THW[frame] == 2
        assert abs(columns[front].mean() - right) < 0.5 and abs(rows[front].mean() - down) < 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_discs": 6}, "num_discs=6 must lie between 1 and the 5 colours"),
        ({"min_speed_px": 2.0}, "min_speed_px=2.0 must be greater than 0 and at most max_speed_px=1.4"),
        ({"max_radius_px": 16.0}, "leaves a disc no room"),
        ({"edge_px": 0.0}, "edge_px=0.0 must be greater than 0"),
    ],
)
def test_worlds_that_can_not_be(change: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        replace(WORLD, **change)
