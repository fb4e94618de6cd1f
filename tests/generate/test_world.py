"""Sampling: one seed is one video, given frames come back, guidance is what it says.

The network is the ideal one for latents ~ N(mean, STD^2), where the mean is what the text says: every result is known.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.network import in_turn
from cosmos_train.generate.world import Scene, sample_scene, window_seeds
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
        **_others: Tensor | None,
    ) -> Tensor:
        assert len(fps_B) == len(x_BCTHW) and len(c_noise_B) == 1, "videos share the noise level"
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
        text_BSE=torch.full((1, 2, 3), text, dtype=dtype),
        negative_text_BSE=torch.full((1, 2, 3), -0.1, dtype=dtype),
        fps_B=[24.0] * batch,
        shape_CTHW=SHAPE,
        seed_B=seeds,
        given_BCTHW=given,
    )


def sample(what: Scene, *, mask: bool = False, **config: Any) -> tuple[Tensor, IdealNetwork]:
    network = IdealNetwork()
    settings: dict[str, Any] = {"num_steps": 8, "guidance": 0.0} | config
    return sample_scene(
        in_turn(network), what, SampleConfig(**settings), sigma_data=DATA, has_condition_mask=mask
    ), network


def given_latents(batch: int, num_frames: int) -> Tensor:
    """Conditions; what lies behind them is not a number, because it must not be looked at."""
    given = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0)) * DATA
    given[:, :, 0, 0, 0] = 1e-30  # so small that the last step's rounding alone would lose it
    given[:, :, num_frames:] = math.nan
    return given


def ideal(x: Tensor, sigma: float) -> Tensor:
    """What IdealNetwork takes the clean sample to be, of the scene's own text."""
    return (0.3 * sigma**2 + x * STD**2) / (sigma**2 + STD**2)


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
    together, network = sample(scene(seeds, given), mask=mask)
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
    sigmas = karras_sigmas(8, sigma_max=80, sigma_min=0.0002, rho=7).tolist()
    assert sigmas[5] > 0.1 > sigmas[6]
    clean, start = given[0, :, 0].double(), seeded(8)[:, 0].double() * math.sqrt(80**2 + 1)
    carried = clean + sigmas[6] * (start - clean) / 80  # their estimate was the given, so they came straight
    calls = zip(network.inputs, network.masks, plain.inputs, strict=True)
    for (sigma, following), (x, mask, without) in zip(itertools.pairwise(sigmas), calls, strict=True):
        assert mask is not None and mask.shape == (1, 1, *SHAPE[1:])
        assert mask[:, :, 0].all() and not mask[:, :, 1:].any(), "marked throughout"
        if sigma > 0.1:
            torch.testing.assert_close(x[0, :, 0], light[:, 0])
        else:  # by now the sample is cleaner than they are: they are denoised like other frames
            torch.testing.assert_close(x[0, :, 0].double() * math.hypot(sigma, DATA), carried, rtol=0, atol=1e-6)
            carried = carried + (following - sigma) * (carried - ideal(carried, sigma)) / sigma
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


def test_guidance_counted_the_other_way():
    """8 off uncond is 7 off cond; 1 is none."""
    ours, _ = sample(scene([1]), guidance=7.0)
    other, _ = sample(scene([1]), guidance=8.0, guidance_from="uncond")
    assert torch.equal(ours, other)
    _, single = sample(scene([1]), guidance=1.0, guidance_from="uncond")
    assert len(single.texts) == 8


def test_guidance_leaves_conditions_to_both_branches():
    """Only the text differs, as in the released inference code."""
    given = given_latents(1, 1)
    video, network = sample(scene([1], given), mask=True, guidance=3.0)
    for first, second in zip(network.inputs[::2], network.inputs[1::2], strict=True):
        assert torch.equal(first, second)
    for first, second in zip(network.masks[::2], network.masks[1::2], strict=True):
        assert first is not None and second is not None and torch.equal(first, second)
    assert torch.equal(video[:, :, :1], given[:, :, :1])


def test_guidance_away_from_having_no_conditions():
    """Asked for, uncond has neither frames, while they are conditions, nor mask; cond is as without."""
    given = given_latents(1, 1)
    settings: dict[str, Any] = {"guidance": 3.0, "augment_sigma": 0.1, "num_steps": 1}
    video, network = sample(scene([1], given), mask=True, **settings, guide_frames=True)
    _, usual = sample(scene([1], given), mask=True, **settings)
    (cond, uncond), (cond_mask, uncond_mask) = network.inputs, network.masks
    assert torch.equal(cond, usual.inputs[0]) and cond_mask is not None and cond_mask[:, :, 0].all()
    assert uncond_mask is not None and uncond_mask.shape == cond_mask.shape and not uncond_mask.any()
    assert not uncond[:, :, 0].any() and torch.equal(uncond[:, :, 1:], cond[:, :, 1:])
    assert torch.equal(video[:, :, :1], given[:, :, :1])


def test_guidance_of_frames_by_hand():
    """Two Euler steps of a network that adds what it sees of the frames' mask and of the frames themselves."""

    def network(
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BSE: Tensor,
        *,
        fps_B: Sequence[float],
        condition_mask_B1THW: Tensor | None,
        **_others: Tensor | None,
    ) -> Tensor:
        assert condition_mask_B1THW is not None
        seen = condition_mask_B1THW.mean() + x_BCTHW[:, :, :1].double().mean() + text_BSE.double().mean()
        return x_BCTHW.double().sin() + seen

    given, augment, guidance = given_latents(1, 1), 0.3, 1.5
    config = SampleConfig(
        num_steps=2, sigma_max=2.0, sigma_min=0.2, guidance=guidance, augment_sigma=augment, guide_frames=True
    )
    found = sample_scene(in_turn(network), scene([4], given), config, sigma_data=DATA, has_condition_mask=True)
    light = given[0, :, :1].double() + augment * seeded(9)[:, :1].double()
    x = seeded(8).double() * math.hypot(2.0, 1)
    for sigma, following in ((2.0, 0.2), (0.2, 0.0)):
        estimates = []
        for mean, is_given in ((0.3, True), (-0.1, False)):
            scaled = x / math.hypot(sigma, DATA)
            if sigma > augment:
                scaled[:, :1] = light / math.hypot(augment, DATA) if is_given else 0
            scaled = scaled.float().double()
            seen = (1 / 3 if is_given else 0) + scaled[:, :1].mean() + mean
            output = (scaled.sin() + seen).float().double()
            estimates.append(DATA**2 / (sigma**2 + DATA**2) * x + sigma * DATA / math.hypot(sigma, DATA) * output)
        x0 = estimates[0] + guidance * (estimates[0] - estimates[1])
        if sigma > augment:
            x0[:, :1] = given[0, :, :1]
        x = x + (following - sigma) * (x - x0) / sigma
    torch.testing.assert_close(found[0, :, 1:], x[:, 1:].float(), atol=1e-5, rtol=0)


def test_the_network_gets_what_it_computes_in():
    video, network = sample(scene([1], given_latents(1, 1), dtype=torch.bfloat16), mask=True)
    assert {x.dtype for x in network.inputs} == {torch.bfloat16} and video.dtype == torch.float32


@pytest.mark.parametrize(("last_step", "steps"), [("clean", [1, 2, 3]), ("none", [1, 2])])
def test_says_when_a_step_is_done(last_step: Literal["clean", "none"], steps: list[int]):
    seen: list[int] = []
    config = SampleConfig(num_steps=3, last_step=last_step)
    sample_scene(
        in_turn(IdealNetwork()), scene([0]), config, sigma_data=DATA, has_condition_mask=False, on_step=seen.append
    )
    assert seen == steps and config.num_updates == len(steps)


def test_there_is_no_video_without_a_step():
    with pytest.raises(ValueError, match=r"sample.num_steps=1 must be at least 2 with sample.last_step=none"):
        SampleConfig(num_steps=1, last_step="none")


def test_windows_have_noise_of_their_own():
    """Of window 0 it is the video's; of the others nothing that another video or window has."""
    seeds = [window_seeds(range(50), window) for window in range(4)]
    assert seeds[0] == list(range(50))
    assert len(set(chain.from_iterable(seeds))) == 200
    assert max(seeds[1]) < 2**62, "a generator takes twice as much"


def test_refuses():
    given = given_latents(1, 1)
    with pytest.raises(ValueError, match=r"model\.condition_mask=false"):
        sample(scene([0], given))
    with pytest.raises(ValueError, match=r"sample.num_condition_frames=4, but the video has 3 latent frames"):
        sample(scene([0], given), mask=True, num_condition_frames=4)
    for wrong in (given[:, :1], given[:, :, :0], given[..., :3], given[..., :3, :]):
        with pytest.raises(ValueError, match=r"give latents \[1 or B, 2, at least 1, 4, 4\]"):
            sample(scene([0], wrong), mask=True)
    with pytest.raises(ValueError, match=r"given_BCTHW has a batch of 2 and there are 3 seeds; use 1 or 3"):
        scene([0, 1, 2], given.expand(2, -1, -1, -1, -1))


@pytest.mark.parametrize("fps", [[0.0], [-24.0], [math.nan], [math.inf], [24.0, 24.0]])
def test_refuses_a_frame_rate(fps: list[float]):
    with pytest.raises(ValueError, match="must be one rate greater than 0 for each of 1 seeds"):
        dataclasses.replace(scene([0]), fps_B=fps)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_steps", 0),
        ("sigma_min", 0.0),
        ("sigma_min", 80.0),
        ("guidance", -1.0),
        ("guidance", math.nan),
        ("num_condition_frames", -1),
    ],
)
def test_refuses_a_configuration(key: str, value: Any):
    with pytest.raises(ValueError, match=rf"sample\.{key}={value} must"):
        SampleConfig(**{key: value})
