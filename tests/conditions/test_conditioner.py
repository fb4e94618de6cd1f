"""One function makes what the network reads, for training and for sampling, and refuses what it was not trained on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.sample_plan.window_conditions import BARE, WindowConditions
from cosmos_train.conditions.action_statistics import Embodiments
from cosmos_train.conditions.conditioner import Conditioner, ConditionTensors
from cosmos_train.conditions.config import ConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.models.dit.config import DiTConfig

NUM_FRAMES, RATE, LATENT_HW = 9, 4, (4, 6)
SIZES: dict[str, Any] = {"num_blocks": 1, "num_heads": 2, "head_dim": 12}
CAMERA_MODEL = DiTConfig(**SIZES, extra_channels=6)
EACH = DiTConfig(**SIZES, action_frames="each", action_width=3 * RATE)
NEXT = DiTConfig(**SIZES, action_frames="next", action_width=3)
CONFIG = ConditionConfig(action_normalize="scale", action_scale=(2.0, 2.0))


def action(first: float = 0.0, embodiment: str = "pusher") -> Action:
    """Steps 1, 2, ... in x and their negatives in y, from `first` on."""
    steps_N = np.arange(NUM_FRAMES) + 1.0 + first
    values = np.stack([steps_N, -steps_N], axis=1).ravel().tolist()
    return Action(
        names=("x", "y"),
        units=("m", "m"),
        rate_hz=10.0,
        frame_of_reference="table",
        values=tuple(values),
        embodiment=embodiment,
    )


def camera(metres: float = 1.0) -> Camera:
    """Moves ahead by so much over the window."""
    matrices_T34 = np.tile(np.eye(4)[:3], (NUM_FRAMES, 1, 1))
    matrices_T34[:, 2, 3] = np.linspace(0, metres, NUM_FRAMES)
    return Camera(
        convention="camera_to_world_opencv",
        intrinsics_px=(40.0, 40.0, 24.0, 16.0),
        height_px=32,
        width_px=48,
        extrinsics=tuple(matrices_T34.ravel().tolist()),
    )


def make(model: DiTConfig, *actions: Action, temporal_rate: int = RATE, fps: float | None = None) -> Conditioner:
    embodiments = Embodiments.of(actions, CONFIG) if actions else None
    return Conditioner(CONFIG, model, embodiments, temporal_rate=temporal_rate, fps=fps)


def tensors(conditioner: Conditioner, *conditions: WindowConditions, frames: int = 3, **given: Any) -> ConditionTensors:
    return conditioner.tensors(
        conditions,
        num_latent_frames=frames,
        latent_HW=LATENT_HW,
        num_pixel_frames=NUM_FRAMES,
        fps_B=[10.0] * len(conditions),
        **given,
    )


def test_actions_of_each_latent_frame_are_normalised_packed_and_filled_up():
    found = tensors(make(EACH, action()), WindowConditions(action=action()), WindowConditions(action=action(100.0)))
    assert found.action_BTRA is not None and found.extra_BCTHW is None and found.embodiment_B is None
    assert found.action_BTRA.shape == (2, 3, 1, RATE * 3)
    assert not found.action_BTRA[:, 0].any()
    steps_BTRA = found.action_BTRA.unflatten(3, (RATE, 3))[:, :, 0]
    assert steps_BTRA[0, 2].tolist() == [[2 * step, -2 * step, 0] for step in (5, 6, 7, 8)]
    assert steps_BTRA[1, 1, 0].tolist() == [202, -202, 0]


def test_embodiments_of_two_rates_share_a_batch():
    """Of 20 Hz at 10 fps a latent frame has twice the steps, side by side in the same width."""
    fast = replace(action(), rate_hz=20.0, embodiment="arm", values=action().values + action(9.0).values)
    conditioner = make(replace(EACH, action_width=2 * 2 * RATE, num_embodiments=2), action(), fast)
    conditioner.check_width()
    found = tensors(conditioner, WindowConditions(action=action()), WindowConditions(action=fast)).action_BTRA
    assert found is not None and found.shape == (2, 3, 1, 4 * RATE)
    assert found[0, 1, 0].tolist() == [number for step in (1, 2, 3, 4) for number in (2 * step, -2 * step, 0, 0)]
    assert found[1, 1, 0, ::2].tolist() == [2 * step for step in range(1, 9)]


def test_a_width_that_one_of_several_embodiments_does_not_fit_is_refused():
    conditioner = make(replace(EACH, action_width=RATE, num_embodiments=2), action(), action(embodiment="arm"))
    with pytest.raises(
        ConfigError, match=r"action_width=4, but .* 4 steps of embodiment 'arm' of 2 dim.*set 8 or more"
    ):
        conditioner.check_width()


def test_the_released_network_reads_the_next_step_alone_and_an_image_none():
    conditioner = make(NEXT, action(), temporal_rate=1)
    found = tensors(conditioner, WindowConditions(action=action()), frames=2).action_BTRA
    assert found is not None and found.tolist() == [[[[2, -2, 0]]]]
    image = tensors(conditioner, WindowConditions(action=action()), frames=1).action_BTRA
    assert image is not None and image.shape == (1, 1, 1, 3) and not image.any()


def test_actions_that_a_network_of_the_next_frame_would_not_read_are_refused():
    given, fast = WindowConditions(action=action()), replace(action(), rate_hz=30.0)
    for conditioner, one, frames, said in (
        (make(NEXT, action(), fps=10.0), given, 2, "4 frames has 4 steps of actions of embodiment 'pusher' at 10 Hz"),
        (
            make(NEXT, fast, temporal_rate=1, fps=10.0),
            WindowConditions(action=fast),
            2,
            "has 3 steps of actions of embodiment 'pusher' at 30 Hz",
        ),
        (make(NEXT, action(), temporal_rate=1), given, 3, "windows have 3 latent frames; use windows of 2"),
    ):
        with pytest.raises(ConfigError, match=said):
            tensors(conditioner, one, frames=frames)
        with pytest.raises(ConfigError, match=said):
            conditioner.check_frames(frames)
            conditioner.check_width()


def test_rays_are_zero_where_there_is_padding():
    padding_B1HW = torch.zeros(1, 1, *LATENT_HW)
    padding_B1HW[..., 4:] = 1
    given = WindowConditions(camera=camera(), action=action())  # what it does not read may be there
    found = tensors(make(CAMERA_MODEL), given, padding_B1HW=padding_B1HW).extra_BCTHW
    assert found is not None and found.shape == (1, 6, 3, *LATENT_HW)
    assert not found[..., 4:].any() and found[:, 3:, :, :, :4].norm(dim=1).allclose(torch.ones(1))


def test_embodiments_have_their_rows_and_scales():
    model = replace(EACH, num_embodiments=2)
    ones = (action(), action(embodiment="arm"))
    conditioner = make(model, *ones)
    found = tensors(conditioner, *(WindowConditions(action=one) for one in ones)).embodiment_B
    assert found is not None and found.tolist() == [1, 0], "in the order of the alphabet"
    with pytest.raises(ConfigError, match=r"actions of 2 embodiments.*model\.num_embodiments=0.*set 2"):
        make(EACH, *ones)


def test_a_split_rollout_has_the_actions_of_one_rollout():
    """The second window starts at the last frame of the first: its first latent frame has none, the rest the same."""
    whole, conditioner = action(), make(EACH, action())
    found = tensors(conditioner, WindowConditions(action=whole)).action_BTRA
    parts = [WindowConditions(action=whole.part(start, 5, 10.0)) for start in (0, 4)]
    split = tensors(conditioner, *parts, frames=2).action_BTRA
    assert found is not None and split is not None
    assert torch.equal(split[:, 1], found[0, 1:])


def test_complaint_19_a_condition_that_the_checkpoint_lacks_is_refused():
    with pytest.raises(ConfigError, match="camera, that this model was not trained with; it reads action"):
        make(EACH, action()).check(WindowConditions(camera=camera(), action=action()), 10.0)
    with pytest.raises(ConfigError, match="action, that this model was not trained with; it reads none"):
        make(DiTConfig(**SIZES)).check(WindowConditions(action=action()), 10.0)


def test_a_condition_that_is_not_given_is_refused():
    for conditioner, name in ((make(EACH, action()), "action"), (make(CAMERA_MODEL), "camera")):
        with pytest.raises(ConfigError, match=f"steered by its {name}"):
            conditioner.check(BARE, 10.0)
        with pytest.raises(ConfigError, match=f"steered by its {name}"):
            tensors(conditioner, BARE)


def test_other_actions_are_refused_and_those_that_are_too_short():
    conditioner = make(EACH, action())
    with pytest.raises(ConfigError, match="units"):
        conditioner.check(WindowConditions(action=replace(action(), units=("mm", "mm"))), 10.0)
    with pytest.raises(ConfigError, match="9 steps of actions are too few"):
        tensors(conditioner, WindowConditions(action=action()), frames=4)


def test_a_width_that_no_steps_fill_is_refused():
    with pytest.raises(ConfigError, match=r"model\.action_width=10 is no multiple of the 4 steps"):
        tensors(make(replace(EACH, action_width=10), action()), WindowConditions(action=action()))


def test_another_rate_of_frames_that_changes_the_packing_is_refused():
    """The width takes 8 steps as well, and would give them other places than those that were trained."""
    conditioner = make(replace(EACH, action_width=2 * 2 * RATE), action(), fps=10.0)
    conditioner.check(WindowConditions(action=action()), 10.0)
    with pytest.raises(ConfigError, match=r"at 5 fps a latent frame has 8 steps .* at 10 fps, .* it has 4"):
        conditioner.check(WindowConditions(action=action()), 5.0)


def test_each_of_several_embodiments_keeps_its_own_packing():
    """One was trained at 10 frames per second and the other at 5, and neither is read at the other's."""
    ones = {10.0: action(), 5.0: action(embodiment="arm")}
    embodiments = Embodiments.of(ones.values(), CONFIG).at_frame_rates((one, fps) for fps, one in ones.items())
    model = replace(EACH, action_width=2 * 2 * RATE, num_embodiments=2)
    conditioner = Conditioner(CONFIG, model, embodiments, temporal_rate=RATE, fps=10.0)
    conditioner.check_width()
    for fps, one in ones.items():
        conditioner.check(WindowConditions(action=one), fps)
    said = r"at 5 fps a latent frame has 8 steps of actions of embodiment 'pusher' at 10 Hz, and at 10 fps, .* it has 4"
    with pytest.raises(ConfigError, match=said):
        conditioner.check(WindowConditions(action=ones[10.0]), 5.0)
    with pytest.raises(ConfigError, match="'arm' at 10 Hz, and at 5 fps, which the model was trained at, it has 8"):
        tensors(conditioner, WindowConditions(action=ones[5.0]))  # at 10 fps


def test_zeros_and_turns_keep_whose_actions_they_are_apart():
    model = replace(EACH, num_embodiments=2, extra_channels=6)
    ones = (action(), action(embodiment="arm"))
    given = [WindowConditions(action=one, camera=camera(metres)) for one, metres in zip(ones, (1, 2), strict=True)]
    found = tensors(make(model, *ones), *given)
    dropped = found.zeros(torch.tensor([True, False]))
    assert dropped.action_BTRA is not None and found.action_BTRA is not None
    assert not dropped.action_BTRA[0].any() and torch.equal(dropped.action_BTRA[1], found.action_BTRA[1])
    assert dropped.extra_BCTHW is not None and not dropped.extra_BCTHW[0].any() and dropped.extra_BCTHW[1].any()
    assert dropped.embodiment_B is found.embodiment_B
    for rolled, tensor in zip(found.rolled().tensors, found.tensors, strict=True):
        assert torch.equal(rolled[0], tensor[1]) and torch.equal(rolled[1], tensor[0])
    assert not any(tensor.any() for tensor in found.zeros().tensors[:2])
