"""Encoder and decoder: levels of residual blocks, with attention in the middle, between wavelet patches and latents.

A `Stream` takes a video through them in pieces, see there; without one they take the whole of it.

B batch, C channels, T frames or latent frames, H rows, W columns.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cosmos_tok import haar
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.image import IMAGE, ImageDownsample, ImageUpsample
from cosmos_tok.layers import VIDEO, Chain, Primitives, ResBlock, SpatialAttention, TemporalAttention, swish
from cosmos_tok.resampling import Downsample, Upsample
from cosmos_tok.stream import Stream


class Middle(nn.Module):
    """The innermost layers; in the released tokenizers the only ones with attention."""

    def __init__(self, channels: int, of: Primitives) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, of)
        self.attn_1 = _attention(channels, of)
        self.block_2 = ResBlock(channels, channels, of)

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_BCTHW, stream), stream), stream)


class Level(nn.Module):
    """Residual blocks at one width, each followed by attention where the level has any."""

    def __init__(self, config: TokenizerConfig, from_width: int, width: int, num_blocks: int, attention: bool) -> None:
        super().__init__()
        of = primitives(config)
        widths = [from_width] + [width] * num_blocks
        self.block = Chain(*(ResBlock(a, b, of) for a, b in pairwise(widths)))
        self.attn = nn.ModuleList(_attention(width, of) for _ in range(num_blocks if attention else 0))

    def run_blocks(self, x_BCTHW: Tensor, stream: Stream | None) -> Tensor:
        if not self.attn:
            return self.block(x_BCTHW, stream)
        for block, attention in zip(self.block, self.attn, strict=True):
            x_BCTHW = attention(block(x_BCTHW, stream), stream)
        return x_BCTHW


class DownLevel(Level):
    """Encoder level i, then the change of resolution that follows it."""

    def __init__(self, config: TokenizerConfig, i: int) -> None:
        from_width, width = (config.channels, *config.widths)[i], config.widths[i]
        super().__init__(config, from_width, width, config.num_res_blocks, i in config.encoder_attention)
        self.downsample = Chain()
        if i < config.num_places:
            self.downsample = _downsample(width, *config.downsampling[i], config)

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        return self.downsample(self.run_blocks(x_BCTHW, stream), stream)


class UpLevel(Level):
    """Decoder level i, then the change of resolution that follows it; the level of the highest number is run first."""

    def __init__(self, config: TokenizerConfig, i: int) -> None:
        from_width, width = (*config.widths, config.widths[-1])[i + 1], config.widths[i]
        super().__init__(config, from_width, width, config.num_res_blocks + 1, i in config.decoder_attention)
        self.upsample = Chain()
        r = len(config.widths) - 1 - i
        if r < config.num_places:
            self.upsample = _upsample(width, *config.upsampling[r], config)

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        return self.upsample(self.run_blocks(x_BCTHW, stream), stream)


class Encoder(nn.Module):
    """Video [B, 3, T, H, W] -> [B, z_channels, T', H', W']."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        of = primitives(config)
        self.conv_in = of.conv(3 * _patch_size(config), config.channels)
        self.down = nn.ModuleList(DownLevel(config, i) for i in range(len(config.widths)))
        self.mid = Middle(config.widths[-1], of)
        self.norm_out = of.norm(config.widths[-1])
        self.conv_out = of.conv(config.widths[-1], config.z_channels)

    def forward(self, video_B3THW: Tensor, stream: Stream | None = None) -> Tensor:
        x_BCTHW = self.conv_in(self.patches(video_B3THW, stream), stream)
        for level in self.down:
            x_BCTHW = level(x_BCTHW, stream)
        x_BCTHW = swish(self.norm_out(self.mid(x_BCTHW, stream)))
        return self.conv_out(x_BCTHW, stream)

    def patches(self, video_B3THW: Tensor, stream: Stream | None = None) -> Tensor:
        """The wavelet patches that the network sees, in the layout that makes its layers fast."""
        p, gain = self.config.patch, self.config.wavelet_gain
        if self.config.media == "image":
            x_BCTHW = haar.patch_frames(video_B3THW, p, gain)
        else:
            x_BCTHW = haar.patch(video_B3THW, p, gain, begun=stream is not None and stream.begun)
        return x_BCTHW.contiguous(memory_format=torch.channels_last_3d)


class Decoder(nn.Module):
    """[B, z_channels, T', H', W'] -> video [B, 3, T, H, W]. `up` is run from its last level to its first."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        of = primitives(config)
        self.conv_in = of.conv(config.z_channels, config.widths[-1])
        self.mid = Middle(config.widths[-1], of)
        self.up = nn.ModuleList(UpLevel(config, i) for i in range(len(config.widths)))
        self.norm_out = of.norm(config.widths[0])
        self.conv_out = of.conv(config.widths[0], 3 * _patch_size(config))

    def forward(self, z_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        x_BCTHW = self.conv_in(z_BCTHW.contiguous(memory_format=torch.channels_last_3d), stream)
        x_BCTHW = self.mid(x_BCTHW, stream)
        for level in reversed(self.up):
            x_BCTHW = level(x_BCTHW, stream)
        return self.pixels(self.conv_out(swish(self.norm_out(x_BCTHW)), stream), stream)

    def pixels(self, bands_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        """The video of the wavelet patches that the network makes."""
        p, gain = self.config.patch, self.config.wavelet_gain
        if self.config.media == "image":
            return haar.unpatch_frames(bands_BCTHW, p, gain)
        return haar.unpatch(bands_BCTHW, p, gain, begun=stream is not None and stream.begun)


def primitives(config: TokenizerConfig) -> Primitives:
    """What the blocks of a tokenizer are made of."""
    return IMAGE if config.media == "image" else VIDEO


def _patch_size(config: TokenizerConfig) -> int:
    """Pixels of a wavelet patch."""
    return config.patch ** (2 if config.media == "image" else 3)


def _attention(channels: int, of: Primitives) -> nn.Module:
    """Over the pixels of a frame and, in a video tokenizer, then over the frames so far."""
    spatial = SpatialAttention(channels, of)
    return spatial if of is IMAGE else Chain(spatial, TemporalAttention(channels, of))


def _downsample(channels: int, spatial: bool, temporal: bool, config: TokenizerConfig) -> nn.Module:
    if config.media == "image":
        return ImageDownsample(channels) if spatial else Chain()
    return Downsample(channels, spatial=spatial, temporal=temporal, extra=config.extra_resampling)


def _upsample(channels: int, spatial: bool, temporal: bool, config: TokenizerConfig) -> nn.Module:
    if config.media == "image":
        return ImageUpsample(channels) if spatial else Chain()
    return Upsample(channels, spatial=spatial, temporal=temporal, extra=config.extra_resampling)
