"""Held-out clips before and after a post-training, of the same first frames."""

import numpy as np
import pytest

from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.pusher import Pusher
from cosmos_train.evaluate.following.quality import kept_quality_figure

WORLD = Pusher(PusherConfig(num_frames=5, height_px=16, width_px=16))
TRUE_BTHW3 = np.stack([WORLD.clip(seed).views[0].pictures_THW3 for seed in range(3)])


def off_by(levels: int) -> np.ndarray:
    """The true frames, each pixel wrong by so much; the first frame is given."""
    made = np.where(TRUE_BTHW3 < 128, TRUE_BTHW3 + levels, TRUE_BTHW3 - levels).astype(np.uint8)
    made[:, 0] = TRUE_BTHW3[:, 0]
    return made


def test_complaint_16_errors_before_and_after():
    """Twice the difference is four times the squared error; the first frame, whatever it is, does not count."""
    worse, better = (kept_quality_figure(off_by(after), off_by(5), TRUE_BTHW3) for after in (10, 1))
    assert worse.value == pytest.approx(4) and better.value == pytest.approx(1 / 25)
    assert worse.floor == 0 and worse.ceiling > worse.value, "of another clip's frames"
    spoilt = off_by(5)
    spoilt[:, 0] = 0
    assert kept_quality_figure(spoilt, off_by(5), TRUE_BTHW3).value == 1
    assert np.isnan(kept_quality_figure(off_by(1), TRUE_BTHW3, TRUE_BTHW3).value), "nothing was wrong before"
