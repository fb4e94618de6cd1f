"""Tiles of a frame: exact where nothing but a pixel's surroundings counts, else off by what `tiling_error` says."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.tiling import Tiles, _in_tiles, decode_tiled, encode_tiled, tiling_error

SMALL: dict = {"channels": 4, "channel_multipliers": (1, 1, 2), "num_res_blocks": 1}


def tokenizer(config: TokenizerConfig) -> CausalVideoTokenizer:
    torch.manual_seed(0)
    model = CausalVideoTokenizer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7 / parameter[0].numel() ** 0.5) if parameter.ndim > 1 else parameter.normal_(1, 0.1)
    return model


@pytest.mark.parametrize("length", [1, 7, 10, 11, 16, 17, 40])
def test_tiles_cover_an_axis_and_overlap(length: int) -> None:
    spans = Tiles(side=10, overlap=4).spans(length)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    for (_, end), (begin, _) in pairwise(spans):
        assert end - begin >= 4
    assert all(end - begin == min(10, length) for begin, end in spans)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("size", [(5, 6), (17, 11), (40, 7)])
def test_what_looks_at_single_pixels_is_put_together_exactly(size: tuple[int, int], mixed: bool) -> None:
    x = torch.randn(2, 3, 2, *size, generator=torch.Generator().manual_seed(0))
    tiles = Tiles(side=10, overlap=4)

    def larger(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4) ** 2

    y = _in_tiles(larger, x, size, tiles, 2.0, mixed=mixed)
    torch.testing.assert_close(y, larger(x), rtol=0, atol=1e-5 if mixed else 0.0)


def test_the_error_is_that_of_the_tiled_functions_and_none_for_a_tile_that_holds_all() -> None:
    model = tokenizer(TokenizerConfig(**SMALL))
    video = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = tiling_error(model, video, Tiles(side=12, overlap=4))
    assert whole.latent_max == whole.pixel_max == 0.0
    tiles = Tiles(side=6, overlap=2)
    found = tiling_error(model, video, tiles)
    with torch.no_grad():
        z = model.encode(video)
        latent, pixel = encode_tiled(model, video, tiles) - z, decode_tiled(model, z, tiles) - model.decode(z)
    assert found.latent_max == latent.abs().max() > found.latent_rms > 1e-4
    assert found.pixel_max == pixel.abs().max() > found.pixel_rms > 1e-4


def test_tiled_codes_are_codes() -> None:
    model = tokenizer(TokenizerConfig(**SMALL, kind="discrete", latent_channels=6))
    video = torch.rand(1, 3, 1, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = encode_tiled(model, video, Tiles(side=6, overlap=2))
    assert torch.equal(model.codes(model.indices(codes)), codes)


def test_tiles_that_cannot_be_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"side=8 and overlap=5 latents are none; use an overlap from 0 to 4"):
        Tiles(side=8, overlap=5)
