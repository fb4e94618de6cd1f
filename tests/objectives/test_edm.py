"""The objective's formulas, its noise as a function of the sample alone, and Video2World conditioning."""

import math

import pytest
import torch

from cosmos_train.objectives import edm
from cosmos_train.objectives.config import EdmConfig

SHAPE = (2, 4, 3, 5)
CONFIG = EdmConfig(max_condition_frames=2, condition_dropout=0.5)


def draw(indices: list[int], config: EdmConfig = CONFIG) -> edm.NoiseDraw:
    return edm.draw_noise(config, seed=1, indices=indices, shape_CTHW=SHAPE)


def test_preconditioning():
    sigma = torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=torch.float64)
    for value, skip, out, scale_in, noise, weight in zip(
        sigma.tolist(),
        edm.c_skip(sigma, 0.5),
        edm.c_out(sigma, 0.5),
        edm.c_in(sigma, 0.5),
        edm.c_noise(sigma),
        edm.loss_weight(sigma, 0.5),
        strict=True,
    ):
        total = value**2 + 0.25
        assert skip.item() == pytest.approx(0.25 / total)
        assert out.item() == pytest.approx(value * 0.5 / math.sqrt(total))
        assert scale_in.item() == pytest.approx(1 / math.sqrt(total))
        assert noise.item() == pytest.approx(math.log(value) / 4)
        assert (weight * out**2).item() == pytest.approx(1.0), (
            "the network's own error counts alike at all noise levels"
        )


def test_a_sample_has_the_same_noise_in_any_batch():
    together, alone = draw([4, 9, 2]), draw([9])
    assert torch.equal(together.noise_BCTHW[1], alone.noise_BCTHW[0])
    assert together.sigma_B[1] == alone.sigma_B[0]
    assert together.num_condition_frames_B[1] == alone.num_condition_frames_B[0]
    assert not torch.equal(together.noise_BCTHW[0], together.noise_BCTHW[1])
    assert not torch.equal(together.noise_BCTHW[0], together.augment_noise_BCTHW[0])


def test_distributions():
    many = edm.draw_noise(CONFIG, seed=0, indices=range(4000), shape_CTHW=(1, 4, 1, 1))
    log_sigma = many.sigma_B.log()
    assert log_sigma.mean().item() == pytest.approx(math.log(2), abs=0.05), "the video factor is sqrt(4 frames)"
    assert log_sigma.std().item() == pytest.approx(1.0, abs=0.05)
    assert many.augment_sigma_B.log().mean().item() == pytest.approx(-3, abs=0.1)
    assert many.num_condition_frames_B.bincount().tolist() == pytest.approx([1333] * 3, abs=120)
    assert many.drop_condition_B.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert many.drop_text_B.float().mean().item() == pytest.approx(0.2, abs=0.03)


def condition(num_frames: int, *, dropped: bool) -> tuple[edm.NoiseDraw, torch.Tensor, edm.NoisyInput]:
    plain = draw([0])
    given = edm.NoiseDraw(
        sigma_B=plain.sigma_B,
        noise_BCTHW=plain.noise_BCTHW,
        augment_sigma_B=plain.augment_sigma_B,
        augment_noise_BCTHW=plain.augment_noise_BCTHW,
        num_condition_frames_B=torch.tensor([num_frames]),
        drop_condition_B=torch.tensor([dropped]),
        drop_text_B=plain.drop_text_B,
    )
    x0 = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    return given, x0, edm.add_noise(x0, given, CONFIG)


def test_conditioning_frames_carry_light_noise():
    given, x0, noisy = condition(2, dropped=False)
    light = x0 + given.augment_sigma_B * given.augment_noise_BCTHW
    torch.testing.assert_close(noisy.net_input_BCTHW[:, :, :2], light[:, :, :2] * edm.c_in(given.augment_sigma_B, 0.5))
    heavy = (x0 + given.sigma_B * given.noise_BCTHW) * edm.c_in(given.sigma_B, 0.5)
    torch.testing.assert_close(noisy.net_input_BCTHW[:, :, 2:], heavy[:, :, 2:])
    assert noisy.condition_mask_B1T11.flatten().tolist() == [1, 1, 0, 0]


def test_dropped_condition_is_zeros_and_not_announced():
    _, _, noisy = condition(2, dropped=True)
    assert not noisy.net_input_BCTHW[:, :, :2].any() and not noisy.condition_mask_B1T11.any()
    assert noisy.is_condition_B1T11.flatten().tolist() == [1, 1, 0, 0], "its error does not count all the same"


def test_loss_of_a_perfect_network_is_its_uncertainty():
    given, x0, noisy = condition(1, dropped=False)
    sigma = given.sigma_B
    perfect = (x0 - edm.c_skip(sigma, 0.5) * noisy.noisy_BCTHW) / edm.c_out(sigma, 0.5)
    loss, error = edm.edm_loss(x0, perfect, noisy, sigma, torch.tensor([0.3]), CONFIG)
    assert error.item() == pytest.approx(0, abs=1e-8) and loss.item() == pytest.approx(0.3)


def test_conditioning_frames_have_no_error_but_stay_in_the_mean():
    given, x0, noisy = condition(1, dropped=False)
    output = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(4))
    _, error = edm.edm_loss(x0, output, noisy, given.sigma_B, None, CONFIG)
    prediction = edm.denoised(output, noisy.noisy_BCTHW, given.sigma_B, 0.5)
    by_hand = edm.loss_weight(given.sigma_B, 0.5) * (prediction - x0)[:, :, 1:].square().sum() / x0.numel()
    torch.testing.assert_close(error, by_hand[0])


def test_loss_scale():
    given, x0, noisy = condition(0, dropped=False)
    losses = [
        edm.edm_loss(x0, torch.zeros_like(x0), noisy, given.sigma_B, None, EdmConfig(loss_scale=scale))[0]
        for scale in (1.0, 10.0)
    ]
    torch.testing.assert_close(losses[0] * 10, losses[1])
