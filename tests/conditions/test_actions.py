"""Steps of actions lie with the latent frames that they bring about."""

import numpy as np
import pytest

from cosmos_train.conditions.actions import next_frame_11A, packed_LRA, steps_per_frame
from cosmos_train.config.errors import ConfigError

NUM_STEPS = 9
VALUES_N2 = np.stack([np.arange(NUM_STEPS) + 1.0, -np.arange(NUM_STEPS) - 1.0], axis=1)


def test_each_latent_frame_has_the_steps_that_bring_about_its_frames():
    """9 frames, 4 a latent frame: frames 1 to 4 are brought about by steps 0 to 3, frames 5 to 8 by steps 4 to 7."""
    found = packed_LRA(VALUES_N2, num_latent_frames=3, steps_of_latent=4, num_dimensions=2)
    assert found.shape == (3, 4, 2) and found.dtype == np.float32
    assert not found[0].any()
    assert found[1, :, 0].tolist() == [1, 2, 3, 4] and found[2, :, 0].tolist() == [5, 6, 7, 8]
    assert found[2, :, 1].tolist() == [-5, -6, -7, -8]


def test_narrow_actions_are_filled_up_with_zeros():
    found = packed_LRA(VALUES_N2, num_latent_frames=2, steps_of_latent=4, num_dimensions=5)
    assert found[1, 0].tolist() == [1, -1, 0, 0, 0]
    assert next_frame_11A(VALUES_N2, num_dimensions=3).tolist() == [[[1, -1, 0]]]


def test_too_short_or_too_wide_is_refused():
    with pytest.raises(ConfigError, match="9 steps of actions are too few for a window that 12 bring about"):
        packed_LRA(VALUES_N2, num_latent_frames=4, steps_of_latent=4, num_dimensions=2)
    with pytest.raises(ConfigError, match=r"2 dimensions.*reads 1.*model\.action_width"):
        next_frame_11A(VALUES_N2, num_dimensions=1)


def test_steps_of_a_frame_are_a_whole_number():
    assert steps_per_frame(30.0, 30.0) == 1
    assert steps_per_frame(30.0, 10.0) == 3
    assert steps_per_frame(29.97, 30000 / 1001) == 1
    for rate_hz in (5.0, 25.0):
        with pytest.raises(ConfigError, match=r"no whole number of steps.*data\.target_fps"):
            steps_per_frame(rate_hz, 10.0)


def test_actions_that_slip_against_the_frames_are_refused():
    """Frame 512 of 29.97 fps begins at step 513 of 30 Hz."""
    with pytest.raises(ConfigError, match=r"30 Hz are no whole number of steps for each frame at 29\.97 fps"):
        steps_per_frame(30.0, 30000 / 1001)
