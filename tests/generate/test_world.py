"""Sampling: one seed is one video, given frames come back, guidance is what it says."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.world import Scene, sample_world

SHAPE = (2, 3, 4, 4)


class Recorder:
    """A network with a simple answer that depends on its text, and a memory of what it was given."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.masks: list[Tensor | None] = []

    def __call__(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BSE: Tensor,
        *,
        fps_B: Sequence[float],
        condition_mask_B1THW: Tensor | None,
    ) -> Tensor:
        self.inputs.append(x_BCTHW)
        self.masks.append(condition_mask_B1THW)
        return 0.1 * x_BCTHW + text_BSE.mean(dim=(1, 2))[:, None, None, None, None]


def scene(seeds: Sequence[int], given: Tensor | None = None, text: float = 0.3) -> Scene:
    batch = len(seeds)
    return Scene(
        text_BSE=torch.full((batch, 2, 3), text),
        negative_text_BSE=torch.zeros(batch, 2, 3),
        fps_B=[24.0] * batch,
        shape_CTHW=SHAPE,
        seed_B=seeds,
        given_BCTHW=given,
    )


def sample(what: Scene, *, mask: bool = False, **config: float) -> tuple[Tensor, Recorder]:
    network = Recorder()
    settings = SampleConfig(**({"num_steps": 6, "guidance": 0.0} | config))
    return sample_world(network, what, settings, sigma_data=0.5, has_condition_mask=mask), network


def test_one_seed_is_one_video():
    together, _ = sample(scene([3, 8, 5]))
    alone, _ = sample(scene([8]))
    torch.testing.assert_close(together[1], alone[0])
    assert (together[0] - together[1]).abs().max() > 0.01


def test_given_frames_come_back():
    given = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    video, network = sample(scene([0, 1], given), mask=True, num_condition_frames=1)
    assert torch.equal(video[:, :, :1], given[:, :, :1])
    first = network.masks[0]
    assert first is not None and first.shape == (2, 1, 3, 4, 4)
    assert first[:, :, 0].all() and not first[:, :, 1:].any()
    # c_in of the light noise on conditioning frames, whatever the noise of the rest
    torch.testing.assert_close(network.inputs[0][:, :, 0], (given[:, :, 0] / 0.5).float(), atol=0.02, rtol=0)


def test_below_their_own_noise_conditions_are_none():
    given = torch.zeros(1, *SHAPE)
    _, network = sample(scene([0], given), mask=True, augment_sigma=1.0, sigma_min=0.01)
    assert network.masks[0] is not None and network.masks[0].any()
    assert network.masks[-1] is not None and not network.masks[-1].any()


def test_guidance():
    """x0 = cond + g (cond - uncond) is linear in the text here, so g = 2 with text 0.1 is g = 0 with text 0.3."""
    guided, network = sample(scene([1], text=0.1), guidance=2.0)
    plain, single = sample(scene([1], text=0.3))
    torch.testing.assert_close(guided, plain, atol=1e-5, rtol=1e-4)
    assert len(network.inputs) == 2 * len(single.inputs)


def test_refuses():
    given = torch.zeros(1, *SHAPE)
    with pytest.raises(ValueError, match=r"model\.condition_mask=false"):
        sample(scene([0], given))
    with pytest.raises(ValueError, match=r"sample.num_condition_frames=4, but the video has 3 latent frames"):
        sample(scene([0], given), mask=True, num_condition_frames=4)
