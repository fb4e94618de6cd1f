"""Actions are read from pairs of frames by a network that learnt from real pairs of other clips."""

import numpy as np
import pytest

from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.pusher import Pusher
from cosmos_train.evaluate.following.inverse_dynamics import InverseDynamics, explained

WORLD = Pusher(PusherConfig(num_frames=9, height_px=16, width_px=16))


def clips(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    made = [WORLD.clip(seed) for seed in seeds]
    actions = [clip.action.values_ND() for clip in made if clip.action is not None]
    return np.stack([clip.views[0].pictures_THW3 for clip in made]), np.stack(actions)


@pytest.mark.parametrize("steps_apart", [1, 4])
def test_actions_are_read_in_true_frames_of_other_clips(steps_apart: int):
    """Frames that stand still, or that follow another's commands, do not show them."""
    reader = InverseDynamics.trained(*clips(range(80)), steps_apart=steps_apart, num_steps=150)
    true_BTHW3, actions_BTA = clips(range(100, 108))
    still_BTHW3 = true_BTHW3[:, :1].repeat(9, axis=1)
    figure = reader.figure(still_BTHW3, true_BTHW3, actions_BTA)
    assert figure.floor > 0.8 and figure.value < 0.3
    assert reader.figure(true_BTHW3, true_BTHW3, actions_BTA).ceiling < 0.3


def test_clips_without_such_a_pair():
    with pytest.raises(ValueError, match="9 frames have no two that lie 9 steps apart"):
        InverseDynamics.trained(*clips(range(2)), steps_apart=9)


def test_share_of_the_variance():
    commanded = np.random.default_rng(0).normal(size=(4, 10, 2))
    assert explained(commanded, commanded) == 1
    assert explained(np.broadcast_to(commanded.mean(axis=(0, 1)), commanded.shape), commanded) == pytest.approx(0)
    with_constant = np.concatenate((commanded, np.ones((4, 10, 1))), axis=2)
    assert explained(with_constant, with_constant) == 1, "a dimension that never varies does not count"
