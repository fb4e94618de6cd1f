"""The causal video tokenizer: Haar patches, a convolutional encoder and decoder, continuous or discrete latents.

    video [B, 3, 1 + r_t n, H, W] in [-1, 1]  --encode-->  z [B, C, 1 + n, H / r_s, W / r_s]  --decode-->  video

An image tokenizer is the one of rate 1 in time: it codes every frame by itself, and takes images too.

No output depends on a later frame: the latents of a clip's first frames are the first latents of the clip. Latents are
raw; `whitening` gives them zero mean and unit variance for a diffusion model. A discrete tokenizer returns codes, which
`indices` turns into integers for a language model.

Parameter names are those of the released files, e.g. `encoder.down.0.block.0.norm1.norm.weight`; their buffers
(`*.patcher3d.*`, `*.unpatcher3d.*`, `quantizer.*`) have no counterpart here, being computed. The architecture is
that of Cosmos, arXiv 2501.03575, section 4, in the dimensions of the released weights.

B batch, C latent channels, T frames or latent frames, H rows, W columns.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok import fsq, haar
from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.image import IMAGE, ImageDownsample, ImageUpsample
from cosmos_tok.layers import (
    VIDEO,
    Downsample,
    Primitives,
    ResBlock,
    SpatialAttention,
    TemporalAttention,
    Upsample,
)

LAST_OF_BRANCHES = ("conv2.1.conv3d.weight", "proj_out.conv3d.weight", "conv2.weight", "proj_out.weight")
LARGEST_PIXEL = 16.0  # far outside -1 .. 1, so that only values that were never scaled are above it


def to_unit_range(video: Tensor) -> Tensor:
    """uint8 0 .. 255 -> float32 -1 .. 1, any shape; TokenizerError for another dtype, which may be scaled already."""
    if video.dtype != torch.uint8:
        raise TokenizerError(f"a video of {video.dtype} cannot be scaled to -1 .. 1; use uint8 frames")
    return video.float().div_(127.5).sub_(1.0)


def to_uint8(video: Tensor) -> Tensor:
    """float -1 .. 1 -> uint8 0 .. 255, rounded to nearest; values outside are clamped. Any shape."""
    if not video.is_floating_point():
        raise TokenizerError(
            f"a video of {video.dtype} is not one in -1 .. 1; use what decode returns, or leave it as it is"
        )
    return video.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Middle(nn.Module):
    """The innermost layers; in the released tokenizers the only ones with attention."""

    def __init__(self, channels: int, of: Primitives) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, of)
        self.attn_1 = _attention(channels, of)
        self.block_2 = ResBlock(channels, channels, of)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_BCTHW)))


class Level(nn.Module):
    """Residual blocks at one width, each followed by attention where the level has any."""

    def __init__(self, config: TokenizerConfig, from_width: int, width: int, num_blocks: int, attention: bool) -> None:
        super().__init__()
        of = _primitives(config)
        widths = [from_width] + [width] * num_blocks
        self.block = nn.Sequential(*(ResBlock(a, b, of) for a, b in pairwise(widths)))
        self.attn = nn.ModuleList(_attention(width, of) for _ in range(num_blocks if attention else 0))

    def run_blocks(self, x_BCTHW: Tensor) -> Tensor:
        if not self.attn:
            return self.block(x_BCTHW)
        for block, attention in zip(self.block, self.attn, strict=True):
            x_BCTHW = attention(block(x_BCTHW))
        return x_BCTHW


class DownLevel(Level):
    """Encoder level i, then the change of resolution that follows it."""

    def __init__(self, config: TokenizerConfig, i: int) -> None:
        from_width, width = (config.channels, *config.widths)[i], config.widths[i]
        super().__init__(config, from_width, width, config.num_res_blocks, i in config.encoder_attention)
        self.downsample = nn.Identity()
        if i < config.num_places:
            self.downsample = _downsample(width, *config.downsampling[i], config)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.downsample(self.run_blocks(x_BCTHW))


class UpLevel(Level):
    """Decoder level i, then the change of resolution that follows it; the level of the highest number is run first."""

    def __init__(self, config: TokenizerConfig, i: int) -> None:
        from_width, width = (*config.widths, config.widths[-1])[i + 1], config.widths[i]
        super().__init__(config, from_width, width, config.num_res_blocks + 1, i in config.decoder_attention)
        self.upsample = nn.Identity()
        r = len(config.widths) - 1 - i
        if r < config.num_places:
            self.upsample = _upsample(width, *config.upsampling[r], config)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.upsample(self.run_blocks(x_BCTHW))


class Encoder(nn.Module):
    """Video [B, 3, T, H, W] -> [B, z_channels, T', H', W']."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        of = _primitives(config)
        self.conv_in = of.conv(3 * _patch_size(config), config.channels)
        self.down = nn.ModuleList(DownLevel(config, i) for i in range(len(config.widths)))
        self.mid = Middle(config.widths[-1], of)
        self.norm_out = of.norm(config.widths[-1])
        self.conv_out = of.conv(config.widths[-1], config.z_channels)

    def forward(self, video_B3THW: Tensor) -> Tensor:
        x_BCTHW = self.conv_in(self.patches(video_B3THW))
        for level in self.down:
            x_BCTHW = level(x_BCTHW)
        x_BCTHW = self.mid(x_BCTHW)
        return self.conv_out(F.silu(self.norm_out(x_BCTHW)))

    def patches(self, video_B3THW: Tensor) -> Tensor:
        """The wavelet patches that the network sees, in the layout that makes its layers fast."""
        patch = haar.patch_frames if self.config.media == "image" else haar.patch
        x_BCTHW = patch(video_B3THW, self.config.patch, self.config.wavelet_gain)
        return x_BCTHW.contiguous(memory_format=torch.channels_last_3d)


class Decoder(nn.Module):
    """[B, z_channels, T', H', W'] -> video [B, 3, T, H, W]. `up` is run from its last level to its first."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        of = _primitives(config)
        self.conv_in = of.conv(config.z_channels, config.widths[-1])
        self.mid = Middle(config.widths[-1], of)
        self.up = nn.ModuleList(UpLevel(config, i) for i in range(len(config.widths)))
        self.norm_out = of.norm(config.widths[0])
        self.conv_out = of.conv(config.widths[0], 3 * _patch_size(config))

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        x_BCTHW = self.conv_in(z_BCTHW.contiguous(memory_format=torch.channels_last_3d))
        x_BCTHW = self.mid(x_BCTHW)
        for level in reversed(self.up):
            x_BCTHW = level(x_BCTHW)
        return self.pixels(self.conv_out(F.silu(self.norm_out(x_BCTHW))))

    def pixels(self, bands_BCTHW: Tensor) -> Tensor:
        """The video of the wavelet patches that the network makes."""
        unpatch = haar.unpatch_frames if self.config.media == "image" else haar.unpatch
        return unpatch(bands_BCTHW, self.config.patch, self.config.wavelet_gain)


class CausalVideoTokenizer(nn.Module):
    """Encoder and decoder with the 1 x 1 x 1 maps, and for a discrete tokenizer the rounding, between them.

    Inputs are cast to the dtype of the weights; outputs have that dtype and are contiguous.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        of = _primitives(config)
        self.quant_conv = of.point(config.z_channels, config.latent_channels)
        self.post_quant_conv = of.point(config.latent_channels, config.z_channels)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def init_weights(self) -> None:
        """First weights for training: variance-preserving convolutions, branches of residual blocks that add nothing.

        torch's own first weights shrink the signal by 1.7 at each convolution. On the demo's footage, at 150 steps of
        batch 4, they give an L1 of 0.249; variance-preserving ones 0.224; with silent branches 0.204.
        """
        for name, param in self.named_parameters():
            if name.endswith((".bias", *LAST_OF_BRANCHES)):
                nn.init.zeros_(param)
            elif param.ndim > 1:
                nn.init.normal_(param, std=param[0].numel() ** -0.5)

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """The reconstruction, of the video's shape."""
        return self.decode(self.encode(video_B3THW))

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'], or codes of a discrete tokenizer, of a video in [-1, 1].

        An image tokenizer codes every frame by itself, and takes images [B, 3, H, W] to latents [B, C, H', W'] too.
        TokenizerError unless the video has 3 channels, 1 + temporal_rate * n frames and sides divisible by
        spatial_rate; on a CPU also for pixels that are not finite or were never scaled to [-1, 1].
        """
        if self.config.media == "image" and video_B3THW.ndim == 4:
            return self.encode(video_B3THW.unsqueeze(2)).squeeze(2)
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != 3 or not video_B3THW.is_floating_point():
            raise TokenizerError(
                f"video of {video_B3THW.dtype} and shape {list(video_B3THW.shape)} is not a floating-point "
                f"[B, 3, T, H, W]; use to_unit_range on uint8 frames"
            )
        self.config.latent_frames(video_B3THW.shape[2])
        self.config.latent_size(video_B3THW.shape[3], video_B3THW.shape[4])
        if video_B3THW.device.type == "cpu" and not torch.compiler.is_compiling():
            _require_unit_range(video_B3THW)
        z_BCTHW = self.quant_conv(self.encoder(video_B3THW.to(self.dtype)))
        if self.config.kind == "discrete":
            z_BCTHW = fsq.quantize(z_BCTHW, self.config.fsq_levels)
        return z_BCTHW.contiguous()

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Video [B, 3, T, H, W], about -1 .. 1 and not clamped, of latents or codes as `encode` returns them."""
        if self.config.media == "image" and z_BCTHW.ndim == 4:
            return self.decode(z_BCTHW.unsqueeze(2)).squeeze(2)
        if z_BCTHW.ndim != 5 or z_BCTHW.shape[1] != self.config.latent_channels or not z_BCTHW.is_floating_point():
            raise TokenizerError(
                f"latents of {z_BCTHW.dtype} and shape {list(z_BCTHW.shape)} are not a floating-point "
                f"[B, {self.config.latent_channels}, T, H, W]; use what encode returns, or codes() on indices"
            )
        return self.decoder(self.post_quant_conv(z_BCTHW.to(self.dtype))).contiguous()

    def indices(self, codes_BCTHW: Tensor) -> Tensor:
        """Integers [B, T, H, W] int64 in 0 .. codebook_size - 1 of the codes from a discrete tokenizer's encode.

        [B, H, W] of an image's codes [B, C, H, W]; `codes` undoes either.
        """
        self._require_discrete("indices")
        if codes_BCTHW.ndim == 4:
            return self.indices(codes_BCTHW.unsqueeze(2)).squeeze(1)
        return fsq.codes_to_indices(codes_BCTHW, self.config.fsq_levels)

    def codes(self, indices_BTHW: Tensor) -> Tensor:
        """Codes [B, C, T, H, W] to decode, of the indices of a discrete tokenizer."""
        self._require_discrete("codes")
        if indices_BTHW.is_floating_point():
            raise TokenizerError(f"indices of {indices_BTHW.dtype} are no indices; codes can be decoded as they are")
        if indices_BTHW.ndim == 3:
            return self.codes(indices_BTHW.unsqueeze(1)).squeeze(2)
        return fsq.indices_to_codes(indices_BTHW, self.config.fsq_levels).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _require_discrete(self, method: str) -> None:
        if self.config.kind != "discrete":
            raise TokenizerError(f"tokenizer.kind={self.config.kind} has no {method}; use a discrete tokenizer")


def _require_unit_range(video_B3THW: Tensor) -> None:
    """One pass over the pixels, nothing beside the convolutions; on a GPU it would make the host wait."""
    low, high = (value.item() for value in video_B3THW.detach().aminmax())
    if not (low >= -LARGEST_PIXEL and high <= LARGEST_PIXEL):  # NaN fails both
        said = "not finite" if not (math.isfinite(low) and math.isfinite(high)) else f"from {low:g} to {high:g}"
        raise TokenizerError(
            f"video has pixels that are {said}, but a tokenizer takes -1 .. 1; use to_unit_range on uint8 frames, "
            f"and look for the frame that is not finite where there is one"
        )


def _primitives(config: TokenizerConfig) -> Primitives:
    return IMAGE if config.media == "image" else VIDEO


def _patch_size(config: TokenizerConfig) -> int:
    """Pixels of a wavelet patch."""
    return config.patch ** (2 if config.media == "image" else 3)


def _attention(channels: int, of: Primitives) -> nn.Module:
    """Over the pixels of a frame and, in a video tokenizer, then over the frames so far."""
    spatial = SpatialAttention(channels, of)
    return spatial if of is IMAGE else nn.Sequential(spatial, TemporalAttention(channels, of))


def _downsample(channels: int, spatial: bool, temporal: bool, config: TokenizerConfig) -> nn.Module:
    if config.media == "image":
        return ImageDownsample(channels) if spatial else nn.Identity()
    return Downsample(channels, spatial=spatial, temporal=temporal, extra=config.extra_resampling)


def _upsample(channels: int, spatial: bool, temporal: bool, config: TokenizerConfig) -> nn.Module:
    if config.media == "image":
        return ImageUpsample(channels) if spatial else nn.Identity()
    return Upsample(channels, spatial=spatial, temporal=temporal, extra=config.extra_resampling)
