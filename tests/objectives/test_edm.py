"""The objective's formulas, its noise as a function of the sample alone, and Video2World conditioning."""

import math
from dataclasses import fields, replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from cosmos_train.objectives import edm
from cosmos_train.objectives.config import EdmConfig

SHAPE = (2, 4, 3, 5)
CONFIG = EdmConfig(max_condition_frames=2, condition_dropout=0.5)


def draw(indices: list[int], *, seed: int = 1) -> edm.NoiseDraw:
    return edm.draw_noise(CONFIG, seed=seed, indices=indices, shape_CTHW=SHAPE)


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.01, 0.5, 3.0, 80.0])
def test_preconditioning(sigma: float):
    """Table 1 of the paper, written out in Python's floats."""
    tensor, data = torch.tensor([sigma], dtype=torch.float64), 0.7
    total = sigma**2 + data**2
    assert edm.c_skip(tensor, data).item() == pytest.approx(data**2 / total, rel=1e-14)
    assert edm.c_out(tensor, data).item() == pytest.approx(sigma * data / math.sqrt(total), rel=1e-14)
    assert edm.c_in(tensor, data).item() == pytest.approx(1 / math.sqrt(total), rel=1e-14)
    assert edm.c_noise(tensor).item() == pytest.approx(math.log(sigma) / 4, rel=1e-14)
    weight = edm.loss_weight(tensor, data)
    assert weight.item() == pytest.approx(total / (sigma * data) ** 2, rel=1e-14)
    # So the error of the network itself counts alike at every noise level.
    assert (weight * edm.c_out(tensor, data) ** 2).item() == pytest.approx(1.0, rel=1e-14)


def test_a_sample_has_the_same_noise_in_any_batch():
    together = draw([4, 9, 2])
    for position, index in enumerate([4, 9, 2]):
        alone = draw([index])
        for field in fields(edm.NoiseDraw):
            assert torch.equal(getattr(together, field.name)[position], getattr(alone, field.name)[0]), field.name


def test_what_steers_is_dropped_without_changing_any_other_draw():
    """It is drawn last, so a run's noise is the same with and without."""
    sizes: dict[str, Any] = {"seed": 3, "indices": range(400), "shape_CTHW": (1, 2, 1, 1)}
    never, often = (edm.draw_noise(CONFIG, steering_dropout=share, **sizes) for share in (0.0, 0.25))
    assert not never.drop_steering_B.any()
    assert often.drop_steering_B.float().mean().item() == pytest.approx(0.25, abs=0.06)
    for one, other in zip(never.tensors[:-1], often.tensors[:-1], strict=True):
        assert torch.equal(one, other)


def test_nothing_is_drawn_twice():
    one, other, other_run = draw([0]), draw([1]), draw([0], seed=2)
    three = (one, other, other_run)
    draws = [*(draw.noise_BCTHW for draw in three), *(draw.augment_noise_BCTHW for draw in three)]
    assert not any(torch.equal(a, b) for a, b in combinations(draws, 2))
    sigmas = [*(draw.sigma_B.item() for draw in three), *(draw.augment_sigma_B.item() for draw in three)]
    assert len(set(sigmas)) == 6


def test_distributions():
    config = replace(CONFIG, min_condition_frames=1, max_condition_frames=3)
    many = edm.draw_noise(config, seed=0, indices=range(4000), shape_CTHW=(1, 4, 1, 1))
    log_sigma = many.sigma_B.log()
    assert log_sigma.mean().item() == pytest.approx(math.log(2), abs=0.05), "the video factor is sqrt(4 frames)"
    assert log_sigma.std().item() == pytest.approx(1.0, abs=0.05)
    assert many.augment_sigma_B.log().mean().item() == pytest.approx(-3, abs=0.1)
    assert many.augment_sigma_B.log().std().item() == pytest.approx(2, abs=0.1)
    assert many.num_condition_frames_B.bincount().tolist() == pytest.approx([0, 1333, 1333, 1333], abs=120)
    assert many.drop_condition_B.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert many.drop_text_B.float().mean().item() == pytest.approx(0.2, abs=0.03)
    for noise in (many.noise_BCTHW, many.augment_noise_BCTHW):
        assert noise.mean().item() == pytest.approx(0, abs=0.03) and noise.std().item() == pytest.approx(1, abs=0.03)
    draws = (
        many.sigma_B.log(),
        many.augment_sigma_B.log(),
        many.num_condition_frames_B,
        many.drop_condition_B,
        many.drop_text_B,
    )
    correlation = torch.corrcoef(torch.stack([values.double() for values in draws]))
    assert (correlation - torch.eye(5)).abs().max() < 0.06, "each is drawn by itself"


def test_only_video_is_noised_harder():
    for config, factor in ((CONFIG, 2.0), (replace(CONFIG, scale_sigma_by_frames=False), 1.0)):
        image, video = (edm.draw_noise(config, seed=1, indices=[5], shape_CTHW=(1, t, 2, 2)) for t in (1, 4))
        torch.testing.assert_close(video.sigma_B, image.sigma_B * factor)
        assert torch.equal(video.augment_sigma_B, image.augment_sigma_B)


def test_a_frame_is_left_to_predict():
    config = replace(CONFIG, min_condition_frames=2, max_condition_frames=2)
    counts = [
        edm.draw_noise(config, seed=1, indices=range(8), shape_CTHW=(1, frames, 2, 2)).num_condition_frames_B.tolist()
        for frames in (4, 2, 1)
    ]
    assert counts == [[2] * 8, [1] * 8, [0] * 8]


def test_images_have_noise_of_their_own():
    video = draw([3])
    image = edm.draw_noise(CONFIG, seed=1, indices=[3], shape_CTHW=SHAPE, stream="image noise")
    assert not torch.equal(video.noise_BCTHW, image.noise_BCTHW) and video.sigma_B != image.sigma_B


def conditioned(num_frames: int, *, dropped: bool = False) -> tuple[edm.NoiseDraw, Tensor, edm.NoisyInput]:
    """A draw with that many conditioning frames, a sample, and the two together."""
    noise = replace(
        draw([0]), num_condition_frames_B=torch.tensor([num_frames]), drop_condition_B=torch.tensor([dropped])
    )
    x0 = random(1, *SHAPE) * 0.5
    return noise, x0, edm.add_noise(x0, noise, CONFIG)


def test_conditioning_frames_carry_light_noise():
    given, x0, noisy = conditioned(2)
    sigma, light_sigma = given.sigma_B.item(), given.augment_sigma_B.item()
    light = (x0 + light_sigma * given.augment_noise_BCTHW) / math.sqrt(light_sigma**2 + 0.25)
    heavy = (x0 + sigma * given.noise_BCTHW) / math.sqrt(sigma**2 + 0.25)
    torch.testing.assert_close(noisy.net_input_BCTHW, torch.cat((light[:, :, :2], heavy[:, :, 2:]), dim=2))
    torch.testing.assert_close(noisy.noisy_BCTHW, x0 + sigma * given.noise_BCTHW)
    assert noisy.condition_mask_B1T11.flatten().tolist() == [1, 1, 0, 0]
    assert noisy.is_condition_B1T11.flatten().tolist() == [1, 1, 0, 0]


def test_dropped_condition_is_zeros_and_not_announced():
    _, _, noisy = conditioned(2, dropped=True)
    assert not noisy.net_input_BCTHW[:, :, :2].any() and not noisy.condition_mask_B1T11.any()
    assert torch.equal(noisy.net_input_BCTHW[:, :, 2:], conditioned(2)[2].net_input_BCTHW[:, :, 2:])
    assert noisy.is_condition_B1T11.flatten().tolist() == [1, 1, 0, 0], "its error does not count all the same"


def test_loss_of_a_perfect_network_is_its_uncertainty():
    given, x0, noisy = conditioned(1)
    sigma = given.sigma_B
    perfect = (x0 - edm.c_skip(sigma, 0.5) * noisy.noisy_BCTHW) / edm.c_out(sigma, 0.5)
    loss, error, _ = edm.edm_loss(x0, perfect, noisy, sigma, torch.tensor([0.3]), CONFIG)
    assert error.item() == pytest.approx(0, abs=1e-8) and loss.item() == pytest.approx(0.3)


def test_conditioning_frames_have_no_error_but_stay_in_the_mean():
    """Two samples, the second with a condition, in fp64 and by hand."""
    noise = replace(draw([0, 1]), num_condition_frames_B=torch.tensor([0, 3]))
    x0, output, u = random(2, *SHAPE) * 0.5, random(2, *SHAPE, seed=4), torch.tensor([0.4, -1.2])
    noisy = edm.add_noise(x0, noise, CONFIG)
    loss, error, error_B = edm.edm_loss(x0, output, noisy, noise.sigma_B, u, replace(CONFIG, loss_scale=10.0))

    wanted_loss, wanted_error = 0.0, 0.0
    for i, first in enumerate((0, 3)):
        sigma, x, clean = noise.sigma_B[i].item(), noisy.noisy_BCTHW[i].double(), x0[i].double()
        total = sigma**2 + 0.25
        denoised = 0.25 / total * x + 0.5 * sigma / math.sqrt(total) * output[i].double()
        squares = (denoised - clean)[:, first:].square().sum().item()
        weighted = total / (0.5 * sigma) ** 2 * squares / clean.numel()
        wanted_error += weighted / 2
        wanted_loss += (weighted * math.exp(-u[i].item()) + u[i].item()) / 2
    assert error.item() == pytest.approx(wanted_error, rel=1e-5)
    assert loss.item() == pytest.approx(10 * wanted_loss, rel=1e-5)
    assert error_B.shape == (2,) and error_B.mean().item() == pytest.approx(wanted_error, rel=1e-5)


def test_padding_has_no_error_and_no_place_in_the_mean():
    """The right half of the second sample is padding: its loss is that of its left half alone."""
    noise = replace(draw([0, 1]), num_condition_frames_B=torch.tensor([0, 0]))
    x0, output = random(2, *SHAPE) * 0.5, random(2, *SHAPE, seed=4)
    noisy = edm.add_noise(x0, noise, CONFIG)
    padding = torch.zeros(2, 1, *SHAPE[2:])
    padding[1, :, :, 2:] = 1
    *_, whole_B = edm.edm_loss(x0, output, noisy, noise.sigma_B, None, CONFIG)
    *_, error_B = edm.edm_loss(x0, output, noisy, noise.sigma_B, None, CONFIG, padding_B1HW=padding)
    left = replace(
        noise, noise_BCTHW=noise.noise_BCTHW[..., :2], augment_noise_BCTHW=noise.augment_noise_BCTHW[..., :2]
    )
    *_, left_B = edm.edm_loss(
        x0[..., :2], output[..., :2], edm.add_noise(x0[..., :2], left, CONFIG), noise.sigma_B, None, CONFIG
    )
    assert error_B[0].item() == pytest.approx(whole_B[0].item(), rel=1e-5)
    assert error_B[1].item() == pytest.approx(left_B[1].item(), rel=1e-5)
    assert error_B[1].item() != pytest.approx(whole_B[1].item(), rel=1e-3)
    counted = replace(CONFIG, loss_on_padding=True)
    *_, counted_B = edm.edm_loss(x0, output, noisy, noise.sigma_B, None, counted, padding_B1HW=padding)
    assert torch.equal(counted_B, whole_B)


def test_errors_by_noise_level_are_all_of_them():
    sigma, error = torch.tensor([0.05, 0.2, 0.25, 5.0, 1e3]), torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    found = edm.by_noise_level(error, sigma)
    assert {name: (total.item(), count.item()) for name, (total, count) in found.items() if count} == {
        "0-0.1": (1, 1),
        "0.1-0.3": (6, 2),
        "3-10": (8, 1),
        "30-inf": (16, 1),
    }


def test_uncertainty_wants_to_be_the_logarithm_of_the_error():
    """The minimum of e exp(-u) + u: there the gradient vanishes and every noise level counts alike."""
    given, x0, noisy = conditioned(0)
    _, error, _ = edm.edm_loss(x0, torch.zeros_like(x0), noisy, given.sigma_B, None, CONFIG)
    u = error.log().view(1).requires_grad_()
    loss, _, _ = edm.edm_loss(x0, torch.zeros_like(x0), noisy, given.sigma_B, u, CONFIG)
    loss.backward()
    assert u.grad is not None and u.grad.item() == pytest.approx(0, abs=1e-6)
    assert loss.item() == pytest.approx(1 + error.log().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [("text_dropout", 1.2), ("condition_dropout", -0.1), ("sigma_data", 0.0), ("log_sigma_std", 0.0)],
)
def test_refuses_a_configuration(key: str, value: float):
    with pytest.raises(ValueError, match=rf"objective\.{key}={value} "):
        replace(CONFIG, **{key: value})


def test_refuses_more_conditions_at_least_than_at_most():
    with pytest.raises(ValueError, match=r"objective\.min_condition_frames=3 .*objective\.max_condition_frames=2"):
        replace(CONFIG, min_condition_frames=3)
