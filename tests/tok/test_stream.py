"""A video in pieces gives what it gives at once; the kernels of inference give what training's layers give."""

from collections.abc import Iterator
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok import kernels, winograd
from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.resampling import Downsample, Upsample
from cosmos_tok.stream import Stream, pieces

SMALL: dict = {"channels": 8, "num_res_blocks": 1}
CODES: dict = {"kind": "discrete", "latent_channels": 6, "z_channels": 12}
FAMILY = {
    "CV8x8x8": TokenizerConfig(**SMALL),
    "CV4x8x8-360p": TokenizerConfig(**SMALL, temporal_rate=4, patch=2),
    "CV4x8x8 0.1": TokenizerConfig(**SMALL, temporal_rate=4, extra_resampling=True),
    "CV8x16x16 0.1": TokenizerConfig(**SMALL, spatial_rate=16, extra_resampling=True),
    "DV4x8x8-360p": TokenizerConfig(**SMALL, **CODES, temporal_rate=4, patch=2),
    "DV8x8x8 0.1": TokenizerConfig(**SMALL, **CODES, extra_resampling=True),
    "DV8x16x16-720p": TokenizerConfig(**SMALL, **CODES, spatial_rate=16),
    "attention": TokenizerConfig(**SMALL, encoder_attention=(1,), decoder_attention=(1,)),
    "legacy": TokenizerConfig(**SMALL, patch=2, legacy_upsampling=True),
    "CI16x16": TokenizerConfig(media="image", temporal_rate=1, spatial_rate=16, channels=32, num_res_blocks=1),
}


def tokenizer(config: TokenizerConfig) -> CausalVideoTokenizer:
    torch.manual_seed(0)
    model = CausalVideoTokenizer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
            else:
                nn.init.normal_(parameter, mean=0.5, std=0.1)
        next(model.quant_conv.parameters()).mul_(6.0)
    return model


def video(num_frames: int, batch: int = 1) -> Tensor:
    blocks = torch.rand(batch, 3, num_frames, 4, 6, generator=torch.Generator().manual_seed(7))
    return blocks.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4) * 2 - 1


def at_once(model: CausalVideoTokenizer, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstruction as training computes them: with gradients, whole, by the plain layers."""
    with torch.enable_grad():
        z = model.encode(clip)
        return z.detach(), model.decode(z.detach()).detach()


def cut(x: Tensor, *lengths: int) -> Iterator[Tensor]:
    assert sum(lengths) == x.shape[2]
    yield from x.split(lengths, dim=2)


@pytest.mark.parametrize("name", FAMILY)
def test_pieces_of_any_length_give_what_the_whole_video_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = tokenizer(FAMILY[name]), video(17, batch=2)
    z, reconstruction = at_once(model, clip)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(clip), z, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.decode(z), reconstruction, rtol=0, atol=1e-5)
    monkeypatch.setattr("cosmos_tok.model.PIXELS_PER_PIECE", 1)  # a latent frame at a time
    streamed = torch.cat([*model.encode_stream(cut(clip, 3, 1, 10, 2, 1))], dim=2)
    torch.testing.assert_close(streamed, z, rtol=0, atol=1e-5)
    frames = torch.cat([*model.decode_stream(cut(z, 1, z.shape[2] - 1))], dim=2)
    torch.testing.assert_close(frames, reconstruction, rtol=0, atol=1e-5)
    assert z.std() > 0.3
    assert reconstruction.std() > 0.1


def test_layers_without_the_kernels_of_inference_stream_too() -> None:
    """As on a GPU; in float64 the pieces agree to the last digits."""
    model, clip = tokenizer(FAMILY["CV8x8x8"]).double(), video(25).double()
    z, reconstruction = at_once(model, clip)
    assert not model._stream(winograd=True).fast
    streamed = torch.cat([*model.encode_stream(cut(clip, 9, 16))], dim=2)
    torch.testing.assert_close(streamed, z, rtol=0, atol=1e-12)
    frames = torch.cat([*model.decode_stream(cut(z, 2, 2))], dim=2)
    torch.testing.assert_close(frames, reconstruction, rtol=0, atol=1e-12)


def test_a_latent_leaves_as_soon_as_its_frames_are_there() -> None:
    model, clip = tokenizer(FAMILY["CV8x8x8"]), video(17)
    taken = []

    def frames() -> Iterator[Tensor]:
        for t in range(17):
            taken.append(t)
            yield clip[:, :, t : t + 1]

    stream = model.encode_stream(frames())
    for last in (0, 8, 16):
        assert next(stream).shape[2] == 1
        assert taken[-1] == last
    decoded = model.decode_stream(iter([torch.zeros(1, 16, 1, 4, 6)] * 2))
    assert [piece.shape[2] for piece in decoded] == [1, 8]


def test_what_a_stream_keeps_grows_by_the_attention_alone() -> None:
    model = tokenizer(FAMILY["CV8x8x8"])
    stream = model._stream(winograd=True)

    def kept(length: int) -> tuple[int, int]:
        with torch.no_grad():
            model._encode(video(9)[:, :, -length:], stream)
        stream.begun = True
        history = sum(piece.numel() for piece in chain.from_iterable(stream.history.values()))
        frames = sum(x.untyped_storage().nbytes() // 4 for x in stream.frames.values())
        return frames, history

    first, second, third = kept(1), kept(8), kept(8)
    assert second[0] == third[0]
    assert third[1] - second[1] == second[1] - first[1] == 4 * 8 * (4 * 6)


def test_gradients_neither_start_nor_stop_at_a_stream() -> None:
    model, clip = tokenizer(FAMILY["CV8x8x8"]), video(1)
    [z] = model.encode_stream([clip])
    assert not z.requires_grad
    assert torch.is_grad_enabled()
    (
        z * model.quant_conv.get_parameter("conv3d.bias").view(1, -1, 1, 1, 1)
    ).sum().backward()  # no tensor of inference mode


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(1, 3, 1, 8, 8), (1, 3, 9, 8, 8)], r"num_frames=10 is not 1 \+ 8 \* n; use 9 or 17"),
        ([], r"num_frames=0 is not 1 \+ 8 \* n; use 1"),
        (
            [(1, 3, 9, 8, 8), (1, 3, 8, 8, 16)],
            r"\(1, 3, 8, 16\) in B, C, H and W, but the first one had \(1, 3, 8, 8\)",
        ),
        ([(1, 3, 1, 8, 12)], r"width_px=12 is not a positive multiple"),
        ([(3, 1, 8, 8)], r"is not a floating-point \[B, 3, T, H, W\]"),
    ],
)
def test_streams_that_cannot_be_encoded_are_refused(chunks: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        list(tokenizer(FAMILY["CV8x8x8"]).encode_stream(torch.zeros(shape) for shape in chunks))
    with pytest.raises(TokenizerError, match=r"latent_frames=0 is not positive"):
        list(tokenizer(FAMILY["CV8x8x8"]).decode_stream([]))


def test_pieces_hold_as_many_groups_as_fill_them() -> None:
    def lengths(pixels: int, *chunks: int) -> list[int]:
        cut = pieces((torch.zeros(1, 1, t, 2, 2) for t in chunks), group=4, pixels=pixels, count=int)
        return [piece.shape[2] for piece in cut]

    assert lengths(1, 13) == [1, 4, 4, 4]
    assert lengths(32, 13) == [5, 8]
    assert lengths(10**6, 3, 10) == [1, 12]


# Kernels


@pytest.mark.parametrize("shape", [(1, 24, 32), (3, 7, 9), (2, 30, 18), (1, 80, 56)])
def test_winograd_is_the_convolution(shape: tuple[int, int, int]) -> None:
    """Frames that fill no block, sides that fill no tile, and several blocks in a frame."""
    torch.manual_seed(0)
    frames, height, width = shape
    x = torch.randn(frames, 64, height, width).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(72, 64, 3, 3) / 24, torch.randn(72)
    y = winograd.conv3x3(x, weight, bias)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-5)
    assert (y - exact).square().mean().sqrt() < 2.5e-6
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_wide_layers_take_winograd_but_not_where_codes_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 64, 20, 20), torch.randn(64, 64, 3, 3), torch.randn(64)
    taken = []
    monkeypatch.setattr(winograd, "conv3x3", lambda *_: taken.append(1) or torch.zeros(2, 64, 20, 20))
    plain = kernels.conv3x3(x, weight, bias, winograd=False)
    torch.testing.assert_close(plain, F.conv2d(x, weight, bias, padding=1), rtol=0, atol=0)
    assert not taken
    kernels.conv3x3(x, weight, bias, winograd=True)
    assert taken
    kernels.conv3x3(x[:, :, :8, :8], weight, bias, winograd=True)  # too small to pay
    assert len(taken) == 1


@pytest.mark.parametrize("width", [6, 64])
@pytest.mark.parametrize(("spatial", "temporal"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("resampling", [Downsample, Upsample])
@torch.no_grad()
def test_folded_resampling_is_the_plain_one(
    resampling: type[Downsample | Upsample], spatial: bool, temporal: bool, width: int
) -> None:
    torch.manual_seed(0)
    layer = resampling(width, spatial=spatial, temporal=temporal, extra=False)
    x = torch.randn(2, width, 5, 22, 26).contiguous(memory_format=torch.channels_last_3d)
    stream = Stream(fast=True)
    begin = layer(x[:, :, :3], stream)
    stream.begun = True
    y = torch.cat([begin, layer(x[:, :, 3:], stream)], dim=2)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=2e-5)
