"""Encoder and decoder, level by level: sizes, attention where it is asked for, and a video in pieces."""

import pytest
import torch

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.layers import SpatialAttention, TemporalAttention
from cosmos_tok.network import Decoder, Encoder
from cosmos_tok.stream import Stream

SMALL = TokenizerConfig(channels=4, channel_multipliers=(1, 2, 3), num_res_blocks=1, z_channels=5)
IMAGE = TokenizerConfig(media="image", temporal_rate=1, channels=32, channel_multipliers=(1, 2), z_channels=5)


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, IMAGE], ids=["video", "image"])
def test_sizes_there_and_back(config: TokenizerConfig):
    torch.manual_seed(0)
    frames = config.pixel_frames(3)
    video = torch.rand(1, 3, frames, 32, 48)
    z = Encoder(config)(video)
    assert z.shape == (1, 5, 3, *config.latent_size(32, 48))
    assert Decoder(config)(z).shape == video.shape


def test_attention_is_in_the_middle_and_where_it_is_asked_for():
    def count(config: TokenizerConfig, half: type[Encoder] | type[Decoder], kind: type) -> int:
        return sum(isinstance(module, kind) for module in half(config).modules())

    asked = TokenizerConfig(
        channels=4, channel_multipliers=(1, 2, 3), num_res_blocks=1, z_channels=5, encoder_attention=(1,)
    )
    for kind in (SpatialAttention, TemporalAttention):
        assert count(SMALL, Encoder, kind) == count(SMALL, Decoder, kind) == count(asked, Decoder, kind) == 1
        assert count(asked, Encoder, kind) == 2
    assert count(IMAGE, Encoder, TemporalAttention) == 0


@torch.no_grad()
def test_a_video_in_pieces_is_the_video():
    torch.manual_seed(0)
    encoder, video = Encoder(SMALL), torch.rand(1, 3, 17, 16, 16)
    stream = Stream(fast=True, winograd=False)
    first = encoder(video[:, :, :9], stream)
    stream.begun = True
    second = encoder(video[:, :, 9:], stream)
    torch.testing.assert_close(torch.cat([first, second], dim=2), encoder(video), rtol=0, atol=1e-5)
