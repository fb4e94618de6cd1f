"""The tokenizer: sizes of the released models, equality with diffusers, causality, naming."""

import re
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from cosmos_tok.config import NotFiniteError, TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer, shown, to_uint8, to_unit_range

IMAGE: dict = {"media": "image", "temporal_rate": 1, "channels": 32, "channel_multipliers": (1, 1, 2)}
FAMILY = {
    "CV8x8x8": TokenizerConfig(channels=8),
    "CV4x8x8": TokenizerConfig(channels=8, temporal_rate=4, patch=2),
    "CV8x16x16": TokenizerConfig(channels=8, spatial_rate=16),
    "CV4x8x8 0.1": TokenizerConfig(channels=8, temporal_rate=4, extra_resampling=True),
    "CV8x8x8 attention": TokenizerConfig(channels=8, encoder_attention=(1,), decoder_attention=(1,)),
    "DV4x8x8": TokenizerConfig(channels=8, temporal_rate=4, patch=2, z_channels=32, kind="discrete", latent_channels=6),
    "DV8x8x8": TokenizerConfig(channels=8, kind="discrete", latent_channels=6),
    "DV8x16x16": TokenizerConfig(channels=8, spatial_rate=16, kind="discrete", latent_channels=6),
    "CI8x8": TokenizerConfig(**IMAGE, spatial_rate=8),
    "CI16x16": TokenizerConfig(**IMAGE, spatial_rate=16, patch=2),
    "DI8x8": TokenizerConfig(**IMAGE, spatial_rate=8, patch=2, z_channels=32, kind="discrete", latent_channels=6),
    "DI16x16": TokenizerConfig(**IMAGE, spatial_rate=16, z_channels=32, kind="discrete", latent_channels=6),
}
CONTINUOUS = ["CV8x8x8", "CV4x8x8", "CV8x16x16"]


def tokenizer(config: TokenizerConfig) -> CausalVideoTokenizer:
    """With weights that keep activations and latents of order 1, and small biases that do not drown the video."""
    torch.manual_seed(0)
    model = CausalVideoTokenizer(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.normal_(parameter, mean=1.0, std=0.1)
        next(model.quant_conv.parameters()).mul_(6.0)
    return model


def video(num_frames: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    """Random blocks of 8 x 8 pixels, whose averages are large, so that every latent depends strongly on its frames."""
    blocks = torch.rand(batch, 3, num_frames, height // 8, width // 8, generator=torch.Generator().manual_seed(7))
    return blocks.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4) * 2 - 1


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (TokenizerConfig(), 105_653_696),
        (TokenizerConfig(temporal_rate=4, patch=2), 110_208_816),
        (TokenizerConfig(spatial_rate=16, kind="discrete", latent_channels=6), 110_898_294),
        (TokenizerConfig(temporal_rate=4, patch=2, z_channels=256, kind="discrete", latent_channels=6), 112_619_766),
        # As the official code counts them; the paper says 77M and 79M.
        (TokenizerConfig(media="image", temporal_rate=1), 76_789_472),
        (
            TokenizerConfig(media="image", temporal_rate=1, z_channels=256, kind="discrete", latent_channels=6),
            79_004_342,
        ),
    ],
)
def test_parameter_counts_of_the_released_models(config: TokenizerConfig, total: int) -> None:
    with torch.device("meta"):
        model = CausalVideoTokenizer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert not list(model.buffers())


def test_parts_of_the_720p_model() -> None:
    with torch.device("meta"):
        model = CausalVideoTokenizer(TokenizerConfig())
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 42_914_592
    assert sum(parameter.numel() for parameter in model.decoder.parameters()) == 62_738_560


def test_names_and_shapes_are_those_of_the_released_files() -> None:
    with torch.device("meta"):
        state = CausalVideoTokenizer(TokenizerConfig()).state_dict()
    expected = {
        "encoder.conv_in.0.conv3d.weight": (128, 192, 1, 3, 3),
        "encoder.conv_in.1.conv3d.bias": (128,),
        "encoder.down.0.block.0.norm1.norm.weight": (128,),
        "encoder.down.0.block.0.conv1.0.conv3d.weight": (256, 128, 1, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.conv3d.weight": (512, 256, 1, 1, 1),
        "encoder.down.0.downsample.conv2.conv3d.weight": (256, 256, 3, 1, 1),
        "encoder.mid.attn_1.1.proj_out.conv3d.weight": (512, 512, 1, 1, 1),
        "encoder.mid.block_2.conv2.1.conv3d.weight": (512, 512, 3, 1, 1),
        "encoder.norm_out.norm.bias": (512,),
        "encoder.conv_out.0.conv3d.weight": (16, 512, 1, 3, 3),
        "quant_conv.conv3d.weight": (16, 16, 1, 1, 1),
        "post_quant_conv.conv3d.bias": (16,),
        "decoder.up.0.block.2.conv1.0.conv3d.weight": (256, 256, 1, 3, 3),
        "decoder.up.1.upsample.conv1.conv3d.weight": (512, 512, 3, 1, 1),
        "decoder.mid.attn_1.0.q.conv3d.weight": (512, 512, 1, 1, 1),
        "decoder.conv_out.1.conv3d.weight": (192, 192, 3, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


def test_extra_resampling_adds_only_what_the_first_release_has() -> None:
    with torch.device("meta"):
        lean = CausalVideoTokenizer(TokenizerConfig()).state_dict()
        full = CausalVideoTokenizer(TokenizerConfig(extra_resampling=True)).state_dict()
    assert lean.keys() <= full.keys()
    added = {name.split(".conv3d")[0] for name in full.keys() - lean.keys()}
    places = ("encoder.down.1.downsample", "decoder.up.2.upsample")
    assert added == {f"{place}.conv{i}" for place, i in product(places, (1, 2, 3))}


# Equality with diffusers

DIFFUSERS_NAMES = [
    (r"^encoder\.down", "encoder.down_blocks"),
    (r"^decoder\.up\.(\d)", lambda match: f"decoder.up_blocks.{2 - int(match[1])}"),
    (r"\.block\.", ".resnets."),
    (r"nin_shortcut", "conv_shortcut"),
    (r"mid\.block_(\d)", lambda match: f"mid_block.resnets.{int(match[1]) - 1}"),
    (r"mid\.attn_1\.0", "mid_block.attentions.0"),
    (r"mid\.attn_1\.1", "mid_block.temp_attentions.0"),
    (r"\.([qkv])\.conv3d", r".to_\1"),
    (r"proj_out\.conv3d", "to_out.0"),
    (r"(down|up)sample\.", r"\1samplers.0."),
    (r"\.0\.conv3d", ".conv_s"),
    (r"\.1\.conv3d", ".conv_t"),
    (r"\.conv3d", ""),
]


def diffusers_twin(model: CausalVideoTokenizer) -> nn.Module:
    """diffusers' model of the same architecture and weights."""
    from diffusers import AutoencoderKLCosmos

    config = model.config
    widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
    twin = AutoencoderKLCosmos(
        latent_channels=config.latent_channels,
        encoder_block_out_channels=(config.channels, *widths),
        decode_block_out_channels=(*widths, widths[-1]),
        patch_size=config.patch,
        spatial_compression_ratio=config.spatial_rate,
        temporal_compression_ratio=config.temporal_rate,
    )
    state = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in DIFFUSERS_NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    twin.load_state_dict(state)
    return twin.eval()


@pytest.mark.parametrize("name", CONTINUOUS)
@torch.inference_mode()
def test_same_weights_same_output_as_diffusers(name: str) -> None:
    model = tokenizer(FAMILY[name])
    twin = diffusers_twin(model)
    for clip in (video(1), video(9, batch=2), video(17, height=16, width=80)):
        z = model.encode(clip)
        torch.testing.assert_close(z, twin.encode(clip).latent_dist.mode(), rtol=0, atol=1e-4)
        reconstruction = model.decode(z)
        torch.testing.assert_close(reconstruction, twin.decode(z).sample, rtol=0, atol=1e-4)
        assert z.std() > 0.5
        assert reconstruction.std() > 0.2


# Behaviour of the whole family


@pytest.mark.parametrize("name", FAMILY)
@torch.inference_mode()
def test_shapes_and_prefixes(name: str) -> None:
    """The first frames of a clip have the first latents of the clip, and these decode to its first frames."""
    config = FAMILY[name]
    model, clip = tokenizer(config), video(17)
    z, reconstruction = model.encode(clip), model(clip)
    assert z.shape == (1, config.latent_channels, config.latent_frames(17), *config.latent_size(32, 48))
    assert reconstruction.shape == clip.shape
    for num_frames in (1, 9):
        num_latents = config.latent_frames(num_frames)
        torch.testing.assert_close(model.encode(clip[:, :, :num_frames]), z[:, :, :num_latents], rtol=0, atol=5e-5)
        decoded = model.decode(z[:, :, :num_latents])
        torch.testing.assert_close(decoded, model.decode(z)[:, :, :num_frames], rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", FAMILY)
@torch.inference_mode()
def test_no_latent_and_no_frame_depends_on_a_later_one_bit_for_bit(name: str) -> None:
    config = FAMILY[name]
    model, clip = tokenizer(config), video(17)

    def before_rounding(clip: Tensor) -> Tensor:
        return model.quant_conv(model.encoder(clip))

    z = before_rounding(clip)
    for frame in (1, 8, 9, 16):
        changed = clip.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        first = -(-frame // config.temporal_rate)  # the latent that holds this frame
        if config.media == "image":
            assert torch.equal(before_rounding(changed)[:, :, frame + 1 :], z[:, :, frame + 1 :])
        z_changed = before_rounding(changed)
        assert torch.equal(z_changed[:, :, :first], z[:, :, :first])
        assert not torch.equal(z_changed[:, :, first], z[:, :, first])
    z = model.encode(clip)
    changed = z.clone()
    changed[:, :, -1] += 1.0
    earlier = config.pixel_frames(z.shape[2] - 1)
    assert torch.equal(model.decode(changed)[:, :, :earlier], model.decode(z)[:, :, :earlier])
    assert not torch.equal(model.decode(changed)[:, :, earlier], model.decode(z)[:, :, earlier])


@torch.inference_mode()
def test_discrete_codes_and_indices() -> None:
    model = tokenizer(FAMILY["DV8x16x16"])
    codes = model.encode(video(9))
    indices = model.indices(codes)
    assert indices.shape == (1, 2, 2, 3)
    assert indices.min() >= 0
    assert indices.max() < model.config.codebook_size == 64_000
    assert len(indices.unique()) > 4
    assert torch.equal(model.codes(indices), codes)


def test_a_continuous_tokenizer_has_no_indices() -> None:
    model = tokenizer(FAMILY["CV8x8x8"])
    with pytest.raises(ValueError, match=r"tokenizer.kind=continuous has no indices"):
        model.indices(torch.zeros(1, 16, 1, 1, 1))
    with pytest.raises(ValueError, match=r"tokenizer.kind=continuous has no codes"):
        model.codes(torch.zeros(1, 1, 1, 1))


@torch.inference_mode()
def test_bfloat16_is_close_to_float32() -> None:
    model, clip = tokenizer(FAMILY["CV8x8x8"]), video(9)
    z = model.encode(clip)
    half = model.bfloat16().encode(clip)
    assert half.dtype == torch.bfloat16
    assert (half.float() - z).abs().max() < 0.1 * z.std()
    assert model(clip).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["CV4x8x8", "DV8x16x16", "DI8x8"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model, clip = tokenizer(FAMILY[name]).train(), video(9)
    (model(clip) - clip).abs().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0 or parameter_name.endswith(("k.conv3d.bias", "k.bias")), parameter_name


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.zeros(1, 3, 10, 32, 32), r"num_frames=10 is not 1 \+ 8 \* n; use 9 or 17"),
        (torch.zeros(1, 3, 9, 30, 32), r"height_px=30 is not a positive multiple"),
        (torch.zeros(3, 9, 32, 32), r"is not a floating-point \[B, 3, T, H, W\]"),
        (torch.zeros(1, 3, 9, 32, 32, dtype=torch.uint8), r"torch.uint8.*use to_unit_range"),
        (torch.full((1, 3, 9, 32, 32), float("nan")), r"pixels that are not finite"),
        (torch.full((1, 3, 9, 32, 32), 255.0), r"pixels that are from 255 to 255, but a tokenizer takes -1 .. 1"),
    ],
)
def test_what_cannot_be_encoded_is_refused(clip: Tensor, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        tokenizer(FAMILY["CV8x8x8"]).encode(clip)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["CI16x16", "DI8x8"])
def test_an_image_is_a_frame(name: str) -> None:
    model, clip = tokenizer(FAMILY[name]), video(3)
    z, image = model.encode(clip), clip[:, :, 1]
    torch.testing.assert_close(model.encode(image), z[:, :, 1], rtol=0, atol=5e-5)
    torch.testing.assert_close(model.decode(z[:, :, 1]), model.decode(z)[:, :, 1], rtol=0, atol=1e-4)
    if name.startswith("D"):
        assert torch.equal(model.indices(z[:, :, 1]), model.indices(z)[:, 1])
        assert torch.equal(model.codes(model.indices(z)[:, 1]), z[:, :, 1])


def test_what_cannot_be_decoded_is_refused() -> None:
    model = tokenizer(FAMILY["DV8x8x8"])
    with pytest.raises(TokenizerError, match=r"torch.int64 and shape \[1, 2, 4, 4\].*or codes\(\) on indices"):
        model.decode(torch.zeros(1, 2, 4, 4, dtype=torch.long))
    with pytest.raises(TokenizerError, match=r"indices of torch.float32 are no indices"):
        model.codes(torch.zeros(1, 2, 4, 4))


def test_latents_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[1, 6, 1, 4, 4\] are not a floating-point \[B, 16, T, H, W\]"):
        tokenizer(FAMILY["CV8x8x8"]).decode(torch.zeros(1, 6, 1, 4, 4))


def test_uint8_round_trip_and_clamping() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit_range(levels)
    assert unit[0] == -1
    assert unit[-1] == 1
    assert torch.equal(to_uint8(unit), levels)
    with pytest.raises(ValueError, match=r"torch.float32 cannot be scaled to -1 .. 1; use uint8"):
        to_unit_range(unit)
    with pytest.raises(TokenizerError, match=r"torch.uint8 is not one in -1 .. 1"):
        to_uint8(levels)
    assert to_uint8(torch.tensor([-1.5, -1.0, 0.001, 1.5])).tolist() == [0, 0, 128, 255]


def test_what_is_shown_is_finite():
    video = torch.tensor([-1.0, 0.0, 2.0])
    assert shown(video, "a clip").tolist() == [0, 128, 255]
    with pytest.raises(NotFiniteError, match=r"a clip: 2 of 3 decoded values are not finite"):
        shown(video / torch.tensor([0.0, 1.0, 0.0]), "a clip")
