"""Sampling: one seed is one video, given frames come back, guidance is what it says.

The network is the ideal one for latents ~ N(mean, STD^2), where the mean is what the text says: every result is known.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.world import Scene, sample_world
from cosmos_train.objectives.edm import c_in, c_out, c_skip
from cosmos_train.objectives.samplers import karras_sigmas

SHAPE = (2, 3, 4, 4)
DATA, STD = 0.5, 0.2


class IdealNetwork:
    """F of the ideal denoiser, and a memory of what it was given."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.sigmas: list[float] = []
        self.texts: list[Tensor] = []
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
        assert len(fps_B) == len(c_noise_B) == len(x_BCTHW)
        sigma_B = (4 * c_noise_B.double()).exp()
        self.inputs.append(x_BCTHW)
        self.sigmas.append(sigma_B[0].item())
        self.texts.append(text_BSE)
        self.masks.append(condition_mask_B1THW)
        sigma = sigma_B[:, None, None, None, None]
        mean = text_BSE.double().mean(dim=(1, 2))[:, None, None, None, None]
        x = x_BCTHW.double() / c_in(sigma, DATA)
        ideal = (mean * sigma**2 + x * STD**2) / (sigma**2 + STD**2)
        return (ideal - c_skip(sigma, DATA) * x) / c_out(sigma, DATA)


def scene(
    seeds: Sequence[int], given: Tensor | None = None, text: float = 0.3, dtype: torch.dtype = torch.float32
) -> Scene:
    batch = len(seeds)
    return Scene(
        text_BSE=torch.full((batch, 2, 3), text, dtype=dtype),
        negative_text_BSE=torch.full((batch, 2, 3), -0.1, dtype=dtype),
        fps_B=[24.0] * batch,
        shape_CTHW=SHAPE,
        seed_B=seeds,
        given_BCTHW=given,
    )


def sample(what: Scene, *, mask: bool = False, **config: Any) -> tuple[Tensor, IdealNetwork]:
    network = IdealNetwork()
    settings: dict[str, Any] = {"num_steps": 8, "guidance": 0.0} | config
    return sample_world(network, what, SampleConfig(**settings), sigma_data=DATA, has_condition_mask=mask), network


def given_latents(batch: int, num_frames: int) -> Tensor:
    """Conditions; what lies behind them is not a number, because it must not be looked at."""
    given = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0)) * DATA
    given[:, :, 0, 0, 0] = 1e-30  # so small that the last step's rounding alone would lose it
    given[:, :, num_frames:] = math.nan
    return given


def seeded(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_reaches_the_distribution():
    video, network = sample(scene(range(200)), num_steps=100)
    assert video.dtype == torch.float32 and video.shape == (200, *SHAPE)
    assert video.mean().item() == pytest.approx(0.3, abs=0.01)
    assert video.std().item() == pytest.approx(STD, rel=0.05)
    assert network.sigmas == pytest.approx(karras_sigmas(100, sigma_max=80, sigma_min=0.0002, rho=7)[:-1], rel=1e-5)
    assert network.masks == [None] * 100


@pytest.mark.parametrize("mask", [False, True])
def test_one_seed_is_one_video(mask: bool):
    given = given_latents(1, 1) if mask else None
    seeds = [3, 8, 5]
    together, network = sample(scene(seeds, given if given is None else given.expand(3, -1, -1, -1, -1)), mask=mask)
    for position, seed in enumerate(seeds):
        alone, single = sample(scene([seed], given), mask=mask)
        assert torch.equal(together[position], alone[0])
        assert torch.equal(network.inputs[0][position], single.inputs[0][0])
    assert (together[0] - together[1]).abs().max() > 0.01


def test_starts_from_the_noise_of_the_seed():
    _, network = sample(scene([3]))
    torch.testing.assert_close(network.inputs[0][0], seeded(6) * math.sqrt((80**2 + 1) / (80**2 + DATA**2)))


def test_given_frames_come_back():
    given = given_latents(2, 2)
    video, _ = sample(scene([0, 1], given), mask=True, num_condition_frames=2)
    assert torch.equal(video[:, :, :2], given[:, :, :2])
    assert not video.isnan().any()


def test_the_network_sees_conditions_with_their_own_light_noise():
    given = given_latents(1, 1)
    _, network = sample(scene([4], given), mask=True, augment_sigma=0.1)
    light = (given[0] + 0.1 * seeded(9)) / math.sqrt(0.1**2 + DATA**2)
    _, plain = sample(scene([4]))
    assert min(network.sigmas) < 0.1 < max(network.sigmas)
    for x, mask, sigma, without in zip(network.inputs, network.masks, network.sigmas, plain.inputs, strict=True):
        assert mask is not None and mask.shape == (1, 1, *SHAPE[1:])
        if sigma > 0.1:
            assert mask[:, :, 0].all() and not mask[:, :, 1:].any()
            torch.testing.assert_close(x[0, :, 0], light[:, 0])
        else:  # by now the rest is cleaner than they are: they are no condition any more
            assert not mask.any()
            direct = given[0] + sigma * (seeded(8) * math.sqrt(80**2 + 1) - given[0]) / 80  # straight to the given
            torch.testing.assert_close(x[0, :, 0] * math.sqrt(sigma**2 + DATA**2), direct[:, 0])
        torch.testing.assert_close(x[:, :, 1:], without[:, :, 1:], msg="other frames are as without a condition")


def test_a_model_with_a_mask_and_nothing_given():
    video, network = sample(scene([4]), mask=True)
    assert all(mask is not None and not mask.any() for mask in network.masks)
    assert torch.equal(video, sample(scene([4]))[0])


def test_guidance():
    """x0 = cond + g (cond - uncond) is linear in the text's mean: g = 2 from 0.3 off -0.1 is g = 0 at 1.1."""
    guided, network = sample(scene([1], text=0.3), guidance=2.0)
    plain, single = sample(scene([1], text=1.1))
    torch.testing.assert_close(guided, plain, atol=1e-5, rtol=0)
    assert [text[0, 0, 0].item() for text in network.texts] == pytest.approx([0.3, -0.1] * 8)
    assert len(single.texts) == 8, "without guidance the negative prompt costs nothing"


def test_guidance_leaves_conditions_to_both_branches():
    """Only the text differs, as in the released inference code."""
    given = given_latents(1, 1)
    video, network = sample(scene([1], given), mask=True, guidance=3.0)
    for first, second in zip(network.inputs[::2], network.inputs[1::2], strict=True):
        assert torch.equal(first, second)
    for first, second in zip(network.masks[::2], network.masks[1::2], strict=True):
        assert first is not None and second is not None and torch.equal(first, second)
    assert torch.equal(video[:, :, :1], given[:, :, :1])


def test_the_network_gets_what_it_computes_in():
    video, network = sample(scene([1], given_latents(1, 1), dtype=torch.bfloat16), mask=True)
    assert {x.dtype for x in network.inputs} == {torch.bfloat16} and video.dtype == torch.float32


def test_says_when_a_step_is_done():
    seen: list[int] = []
    config = SampleConfig(num_steps=3)
    sample_world(IdealNetwork(), scene([0]), config, sigma_data=DATA, has_condition_mask=False, on_step=seen.append)
    assert seen == [1, 2, 3]


def test_refuses():
    given = given_latents(1, 1)
    with pytest.raises(ValueError, match=r"model\.condition_mask=false"):
        sample(scene([0], given))
    with pytest.raises(ValueError, match=r"sample.num_condition_frames=4, but the video has 3 latent frames"):
        sample(scene([0], given), mask=True, num_condition_frames=4)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_steps", 0), ("sigma_min", 0.0), ("sigma_min", 80.0), ("guidance", -1.0), ("num_condition_frames", -1)],
)
def test_refuses_a_configuration(key: str, value: Any):
    with pytest.raises(ValueError, match=rf"sample\.{key}={value} must"):
        SampleConfig(**{key: value})
