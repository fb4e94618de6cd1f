"""Places of coloured things, and what they say of commands: in true frames of the pusher, and where nothing follows."""

from collections.abc import Sequence

import numpy as np
import pytest

from cosmos_data.simulate.clips import SimulatedClip
from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.pusher import COLORS_RGB, HAND_RGB, Pusher
from cosmos_train.evaluate.following.places import (
    Task,
    counterfactual_figure,
    instruction_figure,
    movement_figure,
    place_figures,
    places_of_color,
    shift_px,
    still_figure,
)

WORLD = Pusher(PusherConfig(num_frames=9))
CLIPS = [WORLD.clip(seed) for seed in range(6)]
PICTURES_BTHW3 = np.stack([clip.views[0].pictures_THW3 for clip in CLIPS])
HANDS_BT2 = np.stack([clip.states["hand_T2"] for clip in CLIPS]) * WORLD.config.width_px
FOUND_BT2 = np.stack([places_of_color(pictures_THW3, HAND_RGB) for pictures_THW3 in PICTURES_BTHW3])


def test_the_hand_is_found_in_true_frames():
    assert np.abs(FOUND_BT2 - HANDS_BT2).max() < 0.3


def test_what_is_not_seen_has_stayed():
    gone = PICTURES_BTHW3[0].copy()
    gone[4:] = 40
    np.testing.assert_array_equal(places_of_color(gone, HAND_RGB)[4:], [FOUND_BT2[0, 3]] * 5)
    assert np.isnan(places_of_color(gone[4:], HAND_RGB)).all(), "it never was seen"


def test_figures_of_a_model_that_follows_and_of_one_that_does_not():
    """True frames are the floor. Half of each way has the slope 0.5; frames that stand still have no correlation."""
    half_BT2 = (FOUND_BT2 + FOUND_BT2[:, :1]) / 2
    still_BT2 = np.repeat(FOUND_BT2[:, :1], 9, axis=1)
    for found_BT2, at_least, expected_slope in ((FOUND_BT2, 0.99, 1.0), (half_BT2, 0.99, 0.5), (still_BT2, 0, 0.0)):
        figures = {figure.name: figure for figure in place_figures(found_BT2, FOUND_BT2, HANDS_BT2)}
        for axis in "xy":
            correlation, slope = figures[f"place correlation in {axis}"], figures[f"place slope in {axis}"]
            assert correlation.value >= at_least and correlation.floor > 0.99
            assert slope.value == pytest.approx(expected_slope, abs=0.05) and slope.floor == pytest.approx(1, abs=0.05)
            assert correlation.ceiling < 0.9
            error = figures[f"place error in {axis}"]
            assert error.floor < 0.2 and error.ceiling >= error.floor
    assert still_BT2[0, 0, 0] == FOUND_BT2[0, 0, 0]


def test_how_far_a_picture_moves():
    """A checkerboard that moves by half a pixel a frame, of soft edges; and one that stands still."""
    x_W, y_H = np.arange(32) + 0.0, np.arange(32)[:, None] + 0.0
    waves = [127 + 100 * np.sin((x_W - 0.5 * frame) / 3) * np.cos(y_H / 3) for frame in (0, 1)]
    pictures = np.stack(waves).astype(np.uint8)[..., None].repeat(3, axis=-1)
    assert shift_px(pictures) == pytest.approx(0.5, rel=0.35), "across its slopes, which are not all in x"
    assert shift_px(pictures[[0, 0, 0]]) == 0


def test_a_hand_that_is_told_nothing_stands_still():
    """One that goes half as far as under commands does not."""
    still = [WORLD.played(seed, np.zeros((9, 2))).views[0].pictures_THW3 for seed in range(6)]
    still_BT2 = np.stack([places_of_color(pictures_THW3, HAND_RGB) for pictures_THW3 in still])
    figure = still_figure(still_BT2, still_BT2, FOUND_BT2)
    assert figure.value == figure.floor == 0 and figure.ceiling > 2
    half_BT2 = (FOUND_BT2 + FOUND_BT2[:, :1]) / 2
    assert still_figure(half_BT2, still_BT2, FOUND_BT2).value == pytest.approx(figure.ceiling / 2)


def test_complaint_2_a_model_that_does_not_move_is_told():
    """Its pictures under commands move no more than those under none."""
    still_BTHW3 = np.repeat(PICTURES_BTHW3[:, :1], 9, axis=1)
    figure = movement_figure(PICTURES_BTHW3, PICTURES_BTHW3, still_BTHW3)
    assert figure.value == figure.floor > 0.1 and figure.ceiling == 0
    assert movement_figure(still_BTHW3, PICTURES_BTHW3, still_BTHW3).value == 0


def test_complaint_1_a_swapped_command_is_followed():
    """Of one first frame under two commands: a model that follows, and one that makes the same video of both."""
    right, down = (np.tile(step, (9, 1)) for step in ([0.03, 0.0], [0.0, 0.03]))
    own, other = (_hands([WORLD.played(seed, steps) for seed in range(4)]) for steps in (right, down))
    figure = counterfactual_figure(own + 0.1, own + 0.05, own, other)
    assert figure.value > 5 and figure.floor > figure.value and figure.ceiling < figure.value
    assert counterfactual_figure((own + other) / 2, own, own, other).value == pytest.approx(1)


def _hands(clips: Sequence[SimulatedClip]) -> np.ndarray:
    pictures = np.stack([clip.views[0].pictures_THW3 for clip in clips])
    return np.stack([places_of_color(pictures_THW3, HAND_RGB) for pictures_THW3 in pictures])


DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


def test_which_of_two_tasks_was_carried_out():
    """From one first frame a disc is pushed one way or the other; scripted pushes are told apart by pixels alone."""
    found, tasks, others = [], [], []
    for number, seed in enumerate(range(8)):
        names = ("left", "right") if number % 2 else ("right", "left")
        world = Pusher(PusherConfig(num_frames=33, policy="task", task=names[0], num_objects=1))
        clip = world.clip(seed)
        color = COLORS_RGB[world.scene(seed).colors[0]]
        found.append(places_of_color(clip.views[0].pictures_THW3, color)[:, None])
        tasks.append(Task(0, DIRECTIONS[names[0]]))
        others.append(Task(0, DIRECTIONS[names[1]]))
    figure = instruction_figure(np.stack(found), np.stack(found), tasks, others)
    assert figure.value == figure.floor == 1 and figure.ceiling == 0.5
    still = np.stack(found)[:, :1].repeat(33, axis=1)
    assert instruction_figure(still, np.stack(found), tasks, others).value == 0, "what has not moved has done nothing"
