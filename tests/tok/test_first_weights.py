"""A fresh video tokenizer codes already: what every member of the family keeps of a video before its first step."""

import dataclasses

import pytest
import torch
from torch import Tensor

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.metrics import psnr
from cosmos_tok.model import CausalVideoTokenizer, to_uint8, to_unit_range

CV8X8X8 = TokenizerConfig(channels=16)
FAMILY = {
    "CV8x8x8": CV8X8X8,
    "CV4x8x8": TokenizerConfig(channels=16, temporal_rate=4, patch=2),
    "CV8x16x16": TokenizerConfig(channels=16, spatial_rate=16),
    "CV4x8x8 0.1": TokenizerConfig(channels=16, temporal_rate=4, extra_resampling=True),
    "CV8x8x8 attention": TokenizerConfig(channels=16, encoder_attention=(1,), decoder_attention=(1,)),
    "DV8x8x8": TokenizerConfig(channels=16, kind="discrete", latent_channels=6),
    "DV4x8x8": TokenizerConfig(
        channels=16, temporal_rate=4, patch=2, z_channels=32, kind="discrete", latent_channels=6
    ),
    "nothing but patches": TokenizerConfig(
        channels=16, temporal_rate=4, spatial_rate=4, channel_multipliers=(1,), num_res_blocks=1
    ),
    "one width": TokenizerConfig(channels=8, channel_multipliers=(1, 1, 1), z_channels=4, latent_channels=4),
}


def fresh(config: TokenizerConfig) -> CausalVideoTokenizer:
    torch.manual_seed(0)
    model = CausalVideoTokenizer(config)
    model.init_weights()
    return model


def waves(num_frames: int = 17, side_px: int = 96, contrast: float = 100.0) -> Tensor:
    """Coloured waves of 64 px that move 1 px a frame: uint8 [1, 3, T, H, W]."""
    t, y, x = torch.meshgrid(torch.arange(num_frames), torch.arange(side_px), torch.arange(side_px), indexing="ij")
    phase_3THW = torch.stack([x + t, y - t, x + y]) * 2 * torch.pi / 64
    return (128 + contrast * phase_3THW.sin()).round().to(torch.uint8)[None]


@torch.inference_mode()
def restored(model: CausalVideoTokenizer, pixels_B3THW: Tensor) -> Tensor:
    return to_uint8(model(to_unit_range(pixels_B3THW)))


def inner(pixels_B3THW: Tensor) -> Tensor:
    """Without the outermost 16 px: convolutions see zeros beyond them."""
    return pixels_B3THW[..., 16:-16, 16:-16]


@pytest.mark.parametrize("name", FAMILY)
def test_a_fresh_tokenizer_keeps_a_smooth_video(name: str):
    video = waves()
    score = psnr(inner(video), inner(restored(fresh(FAMILY[name]), video))).per_frame_BT
    assert score.mean() > (13 if FAMILY[name].kind == "discrete" else 17), score  # 4 to 6 with random weights


def test_it_keeps_brightness_and_contrast_in_spite_of_the_norms():
    model = fresh(CV8X8X8)
    faint = inner(restored(model, waves(contrast=10.0))).float().std()
    strong = inner(restored(model, waves(contrast=100.0))).float().std()
    assert strong / faint == pytest.approx(10, rel=0.2)
    for level in (30, 128, 220):
        video = torch.full((1, 3, 9, 64, 64), level, dtype=torch.uint8)
        assert (inner(restored(model, video)).float() - level).abs().mean() < 16, level


def test_latents_are_the_coarsest_coefficients_brightness_first():
    model, video = fresh(CV8X8X8), waves()
    with torch.inference_mode():
        z_BCTHW = model.encode(to_unit_range(video))
    means_BCTHW = torch.nn.functional.avg_pool3d(to_unit_range(video)[:, :, 1:], 8)
    brightness = means_BCTHW.sum(dim=1) / 3**0.5
    assert torch.corrcoef(torch.stack([z_BCTHW[:, 0, 1:].flatten(), brightness.flatten()]))[0, 1] > 0.99


def test_first_weights_are_drawn_not_fixed():
    """Free channels differ with the seed, or all of them would learn the same."""
    one = fresh(CV8X8X8)
    torch.manual_seed(1)
    other = CausalVideoTokenizer(CV8X8X8)
    other.init_weights()
    for name, param in one.named_parameters():
        if param.ndim > 1 and param.any() and "conv2.1" not in name:
            assert not torch.equal(param, other.get_parameter(name)), name


def test_every_weight_that_is_read_learns():
    """After two steps, as what is silent hides what lies before it."""
    model = fresh(dataclasses.replace(CV8X8X8, channels=8, num_res_blocks=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    video = to_unit_range(waves(num_frames=9, side_px=32))
    for _ in range(3):
        optimizer.zero_grad()
        (model(video) - video).abs().mean().backward()
        optimizer.step()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.any(), name
