"""What reaches the network is measured, and said aloud where no network could learn from it."""

import logging

import pytest
import torch

from cosmos_data.manifests.conditions import Action
from cosmos_train.conditions.action_rms import NUM_WINDOWS, ActionRms

PUSHER = Action(
    names=("x", "y"), units=("m", "m"), rate_hz=10.0, frame_of_reference="table", values=(0.0,) * 8, embodiment="pusher"
)


def note(rms: ActionRms, scale: float, num_windows: int = NUM_WINDOWS) -> None:
    """Windows whose actions are so large, of 3 latent frames; the network reads 3 dimensions, of which 2 are there."""
    for _ in range(num_windows // 2):
        action_BTRA = torch.full((2, 3, 4, 3), scale)
        action_BTRA[:, 0] = action_BTRA[..., 2] = 0
        rms.note([PUSHER, PUSHER], [4, 4], action_BTRA.flatten(2)[:, :, None])


def test_complaint_4_a_normaliser_that_is_not_applied_is_said(caplog: pytest.LogCaptureFixture):
    rms = ActionRms()
    with caplog.at_level(logging.WARNING):
        note(rms, 1 / 55)
    assert "'pusher' reach the network with rms x 0.0182, y 0.0182, outside of 0.2 to 3" in caplog.text


def test_usual_actions_are_measured_once_without_a_warning(caplog: pytest.LogCaptureFixture):
    rms = ActionRms()
    with caplog.at_level(logging.INFO):
        note(rms, 0.5, NUM_WINDOWS - 2)
        assert not rms.said and not caplog.text
        note(rms, 0.5, 10)
    assert rms.said == {"pusher": {"x": 0.5, "y": 0.5}}, "neither the first latent frame nor what fills up counts"
    assert [record.levelname for record in caplog.records] == ["INFO"]
