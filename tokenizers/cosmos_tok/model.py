"""The causal video tokenizer: Haar patches, a convolutional encoder and decoder, continuous or discrete latents.

    video [B, 3, 1 + r_t n, H, W] in [-1, 1]  --encode-->  z [B, C, 1 + n, H / r_s, W / r_s]  --decode-->  video

No output depends on a later frame: the latents of a clip's first frames are the first latents of the clip. Latents are
raw; `whitening` gives them zero mean and unit variance for a diffusion model. A discrete tokenizer returns codes, which
`indices` turns into integers for a language model.

Parameter names are those of the released files, e.g. `encoder.down.0.block.0.norm1.norm.weight`; their buffers
(`*.patcher3d.*`, `*.unpatcher3d.*`, `quantizer.*`) have no counterpart here, being computed. The architecture is
that of Cosmos, arXiv 2501.03575, section 4, in the dimensions of the released weights.

B batch, C latent channels, T frames or latent frames, H rows, W columns.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok import fsq, haar
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.layers import (
    Downsample,
    FactorizedConv,
    FrameNorm,
    PointwiseConv,
    ResBlock,
    SpatialAttention,
    TemporalAttention,
    Upsample,
)


def to_unit_range(video: Tensor) -> Tensor:
    """uint8 0 .. 255 -> float32 -1 .. 1, any shape; ValueError for another dtype, which may be scaled already."""
    if video.dtype != torch.uint8:
        raise ValueError(f"a video of {video.dtype} cannot be scaled to -1 .. 1; use uint8 frames")
    return video.float().div_(127.5).sub_(1.0)


def to_uint8(video: Tensor) -> Tensor:
    """float -1 .. 1 -> uint8 0 .. 255, rounded to nearest; values outside are clamped. Any shape."""
    return video.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Middle(nn.Module):
    """The innermost layers, the only ones with attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = nn.Sequential(SpatialAttention(channels), TemporalAttention(channels))
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_BCTHW)))


class DownLevel(nn.Module):
    """Residual blocks at one width, then the change of resolution that follows them."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, downsample: nn.Module) -> None:
        super().__init__()
        self.block = _res_blocks(in_channels, out_channels, num_blocks)
        self.downsample = downsample

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.downsample(self.block(x_BCTHW))


class UpLevel(nn.Module):
    """Residual blocks at one width, then the change of resolution that follows them."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, upsample: nn.Module) -> None:
        super().__init__()
        self.block = _res_blocks(in_channels, out_channels, num_blocks)
        self.upsample = upsample

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.upsample(self.block(x_BCTHW))


class Encoder(nn.Module):
    """Video [B, 3, T, H, W] -> [B, z_channels, T', H', W']."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        width = config.channels
        self.conv_in = FactorizedConv(3 * config.patch**3, width)
        self.down = nn.ModuleList()
        for i, multiplier in enumerate(config.channel_multipliers):
            wider = config.channels * multiplier
            resample = nn.Identity()
            if i < len(config.downsampling):
                spatial, temporal = config.downsampling[i]
                resample = Downsample(wider, spatial=spatial, temporal=temporal, extra=config.extra_resampling)
            self.down.append(DownLevel(width, wider, config.num_res_blocks, resample))
            width = wider
        self.mid = Middle(width)
        self.norm_out = FrameNorm(width)
        self.conv_out = FactorizedConv(width, config.z_channels)

    def forward(self, video_B3THW: Tensor) -> Tensor:
        x_BCTHW = haar.patch(video_B3THW, self.patch).contiguous(memory_format=torch.channels_last_3d)
        x_BCTHW = self.conv_in(x_BCTHW)
        for level in self.down:
            x_BCTHW = level(x_BCTHW)
        x_BCTHW = self.mid(x_BCTHW)
        return self.conv_out(F.silu(self.norm_out(x_BCTHW)))


class Decoder(nn.Module):
    """[B, z_channels, T', H', W'] -> video [B, 3, T, H, W]. `up` is run from its last level to its first."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        width = config.channels * config.channel_multipliers[-1]
        self.conv_in = FactorizedConv(config.z_channels, width)
        self.mid = Middle(width)
        levels: list[nn.Module] = []
        for r, multiplier in enumerate(reversed(config.channel_multipliers)):
            narrower = config.channels * multiplier
            resample = nn.Identity()
            if r < len(config.upsampling):
                spatial, temporal = config.upsampling[r]
                resample = Upsample(narrower, spatial=spatial, temporal=temporal, extra=config.extra_resampling)
            levels.append(UpLevel(width, narrower, config.num_res_blocks + 1, resample))
            width = narrower
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = FrameNorm(width)
        self.conv_out = FactorizedConv(width, 3 * config.patch**3)

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        x_BCTHW = self.conv_in(z_BCTHW.contiguous(memory_format=torch.channels_last_3d))
        x_BCTHW = self.mid(x_BCTHW)
        for level in reversed(self.up):
            x_BCTHW = level(x_BCTHW)
        x_BCTHW = self.conv_out(F.silu(self.norm_out(x_BCTHW)))
        return haar.unpatch(x_BCTHW, self.patch)


class CausalVideoTokenizer(nn.Module):
    """Encoder and decoder with the 1 x 1 x 1 maps, and for a discrete tokenizer the rounding, between them.

    Inputs are cast to the dtype of the weights; outputs have that dtype and are contiguous.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = PointwiseConv(config.z_channels, config.latent_channels)
        self.post_quant_conv = PointwiseConv(config.latent_channels, config.z_channels)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def init_weights(self) -> None:
        """First weights for training: variance-preserving convolutions, branches of residual blocks that add nothing.

        torch's own first weights shrink the signal by 1.7 at each convolution. On the demo's footage, at 150 steps of
        batch 4, they give an L1 of 0.249; variance-preserving ones 0.224; with silent branches 0.204.
        """
        for name, param in self.named_parameters():
            if name.endswith((".bias", "conv2.1.conv3d.weight", "proj_out.conv3d.weight")):
                nn.init.zeros_(param)
            elif param.ndim == 5:
                nn.init.normal_(param, std=param[0].numel() ** -0.5)

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """The reconstruction, of the video's shape."""
        return self.decode(self.encode(video_B3THW))

    def encode(self, video_B3THW: Tensor) -> Tensor:
        """Latents [B, C, T', H', W'], or codes of a discrete tokenizer, of a video in [-1, 1].

        ValueError unless the video has 3 channels, 1 + temporal_rate * n frames and sides divisible by spatial_rate.
        """
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != 3 or not video_B3THW.is_floating_point():
            raise ValueError(
                f"video of {video_B3THW.dtype} and shape {list(video_B3THW.shape)} is not a floating-point "
                f"[B, 3, T, H, W]; use to_unit_range on uint8 frames"
            )
        self.config.latent_frames(video_B3THW.shape[2])
        self.config.latent_size(video_B3THW.shape[3], video_B3THW.shape[4])
        z_BCTHW = self.quant_conv(self.encoder(video_B3THW.to(self.dtype)))
        if self.config.kind == "discrete":
            z_BCTHW = fsq.quantize(z_BCTHW, self.config.fsq_levels)
        return z_BCTHW.contiguous()

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Video [B, 3, T, H, W], about -1 .. 1 and not clamped, of latents or codes as `encode` returns them."""
        if z_BCTHW.ndim != 5 or z_BCTHW.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents of shape {list(z_BCTHW.shape)} are not [B, {self.config.latent_channels}, T, H, W]; "
                f"use what encode returns"
            )
        return self.decoder(self.post_quant_conv(z_BCTHW.to(self.dtype))).contiguous()

    def indices(self, codes_BCTHW: Tensor) -> Tensor:
        """Integers [B, T, H, W] int64 in 0 .. codebook_size - 1 of the codes from a discrete tokenizer's encode."""
        self._require_discrete("indices")
        return fsq.codes_to_indices(codes_BCTHW, self.config.fsq_levels)

    def codes(self, indices_BTHW: Tensor) -> Tensor:
        """Codes [B, C, T, H, W] to decode, of the indices of a discrete tokenizer."""
        self._require_discrete("codes")
        return fsq.indices_to_codes(indices_BTHW, self.config.fsq_levels).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.quant_conv.conv3d.weight.dtype

    def _require_discrete(self, method: str) -> None:
        if self.config.kind != "discrete":
            raise ValueError(f"tokenizer.kind={self.config.kind} has no {method}; use a discrete tokenizer")


def _res_blocks(in_channels: int, out_channels: int, num_blocks: int) -> nn.Sequential:
    widths = [in_channels] + [out_channels] * num_blocks
    return nn.Sequential(*(ResBlock(a, b) for a, b in pairwise(widths)))
