"""Layers of the causal video tokenizer: factorised convolutions, residual blocks, resampling and attention.

Every layer maps [B, C, T, H, W] to [B, C', T', H', W'] and none lets a frame see a later one: in time only the past is
padded, with copies of frame 0; norms and spatial layers treat each frame by itself.

Layout. Values are laid out channels-last (torch.channels_last_3d), so that folding time into the batch, and flattening
pixels into rows, are views. Any layout gives the same values; this one is what makes the layers fast. Kernels of
1 x 3 x 3 run as 2-D convolutions over folded frames: oneDNN's 3-D kernel is up to 3x slower at small widths.

Names follow the released state dicts: a convolution keeps its weight in a child called `conv3d`, a norm in `norm`.
Blocks take their norms and convolutions from a `Primitives`, because images have the same blocks made of 2-D ones.

B batch, C channels, T frames, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fold_frames(x_BCTHW: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B T, C, H, W]; a view of a channels-last tensor."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_frames(x_NCHW: Tensor, batch: int) -> Tensor:
    """[B T, C, H, W] -> [B, C, T, H, W], the inverse of `fold_frames`; always a view."""
    return x_NCHW.unflatten(0, (batch, -1)).transpose(1, 2)


class FrameNorm(nn.Module):
    """Group norm with one group, over the channels and pixels of each frame by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return unfold_frames(self.norm(fold_frames(x_BCTHW)), x_BCTHW.shape[0])


class PointwiseConv(nn.Module):
    """1 x 1 x 1: a linear map of the channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1)
        return F.linear(x_BTHWC, self.conv3d.weight.flatten(1), self.conv3d.bias).permute(0, 4, 1, 2, 3)


class SpatialConv(nn.Module):
    """1 x 3 x 3. Stride 1 pads a zero on every side; stride 2 pads right and bottom only, and halves both sides."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, (1, 3, 3), stride=(1, stride, stride))
        self.stride = stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x_NCHW, padding = fold_frames(x_BCTHW), 1
        if self.stride == 2:
            x_NCHW, padding = F.pad(x_NCHW, (0, 1, 0, 1)), 0
        weight = self.conv3d.weight.squeeze(2)
        y_NCHW = F.conv2d(x_NCHW, weight, self.conv3d.bias, stride=self.stride, padding=padding)
        return unfold_frames(y_NCHW, x_BCTHW.shape[0])


class TemporalConv(nn.Module):
    """3 x 1 x 1 over a frame and the two before it, frame 0 being repeated; stride 2 maps 1 + 2n frames to 1 + n."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, (3, 1, 1), stride=(stride, 1, 1))
        self.stride = stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        first = x_BCTHW[:, :, :1]
        padded_BCTHW = torch.cat([first, first, x_BCTHW], dim=2)
        if self.stride == 1 and x_BCTHW.device.type == "cpu" and x_BCTHW.dtype == torch.float32:
            return self._as_matrix_products(padded_BCTHW)
        return self.conv3d(padded_BCTHW)

    def _as_matrix_products(self, padded_BCTHW: Tensor) -> Tensor:
        """One product per tap: oneDNN's float32 3 x 1 x 1 kernel takes 1.2 to 2 times as long (AVX-512, one thread)."""
        batch, _, padded_frames, height, width = padded_BCTHW.shape
        frames, pixels = padded_frames - 2, height * width
        x_BLC = padded_BCTHW.permute(0, 2, 3, 4, 1).flatten(1, 3)
        tap_0, tap_1, tap_2 = self.conv3d.weight.flatten(2).unbind(2)
        y_BLC = F.linear(x_BLC[:, 2 * pixels :], tap_2, self.conv3d.bias)
        y_BLC = torch.baddbmm(y_BLC, x_BLC[:, pixels:-pixels], tap_1.t().expand(batch, -1, -1))
        y_BLC = torch.baddbmm(y_BLC, x_BLC[:, : -2 * pixels], tap_0.t().expand(batch, -1, -1))
        return y_BLC.unflatten(1, (frames, height, width)).permute(0, 4, 1, 2, 3)


class FactorizedConv(nn.Sequential):
    """1 x 3 x 3, then 3 x 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(SpatialConv(in_channels, out_channels), TemporalConv(out_channels, out_channels))


@dataclass(frozen=True)
class Primitives:
    """What blocks are made of: a norm of c channels, a 3-wide convolution and a linear map from a to b channels."""

    norm: Callable[[int], nn.Module]
    conv: Callable[[int, int], nn.Module]
    point: Callable[[int, int], nn.Module]


VIDEO = Primitives(FrameNorm, FactorizedConv, PointwiseConv)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a linear map of x where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, of: Primitives = VIDEO) -> None:
        super().__init__()
        self.norm1 = of.norm(in_channels)
        self.conv1 = of.conv(in_channels, out_channels)
        self.norm2 = of.norm(out_channels)
        self.conv2 = of.conv(out_channels, out_channels)
        self.nin_shortcut = of.point(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h_BCTHW = self.conv1(F.silu(self.norm1(x_BCTHW)))
        h_BCTHW = self.conv2(F.silu(self.norm2(h_BCTHW)))
        return self.nin_shortcut(x_BCTHW) + h_BCTHW


class Downsample(nn.Module):
    """Halve space, time or both, each as strided convolution plus average; then a linear map. 1+2n frames -> 1+n.

    `extra` also creates the convolutions that are not used, as the files of the 0.1 release have them.
    """

    def __init__(self, channels: int, *, spatial: bool, temporal: bool, extra: bool) -> None:
        super().__init__()
        self.spatial, self.temporal = spatial, temporal
        if spatial or extra:
            self.conv1 = SpatialConv(channels, channels, stride=2)
        if temporal or extra:
            self.conv2 = TemporalConv(channels, channels, stride=2)
        if spatial or temporal or extra:
            self.conv3 = PointwiseConv(channels, channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.spatial:
            average_NCHW = F.avg_pool2d(fold_frames(x_BCTHW), 2)
            x_BCTHW = self.conv1(x_BCTHW) + unfold_frames(average_NCHW, x_BCTHW.shape[0])
        if self.temporal:
            pairs_BCTHW = (x_BCTHW[:, :, 1::2] + x_BCTHW[:, :, 2::2]) / 2
            x_BCTHW = self.conv2(x_BCTHW) + torch.cat([x_BCTHW[:, :, :1], pairs_BCTHW], dim=2)
        return self.conv3(x_BCTHW) if self.spatial or self.temporal else x_BCTHW


class Upsample(nn.Module):
    """Double time, space or both, each as repetition plus a convolution of it; then a linear map. 1+n frames -> 1+2n.

    `extra` also creates the convolutions that are not used, as the files of the 0.1 release have them.
    """

    def __init__(self, channels: int, *, spatial: bool, temporal: bool, extra: bool) -> None:
        super().__init__()
        self.spatial, self.temporal = spatial, temporal
        if temporal or extra:
            self.conv1 = TemporalConv(channels, channels)
        if spatial or extra:
            self.conv2 = SpatialConv(channels, channels)
        if spatial or temporal or extra:
            self.conv3 = PointwiseConv(channels, channels)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.temporal:
            # Frames 0, 1, 1, 2, 2 ...: every frame twice, but frame 0 once, since it stands for a single frame.
            source_T = torch.arange(1, 2 * x_BCTHW.shape[2], device=x_BCTHW.device) // 2
            x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1).index_select(1, source_T)
            x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
            x_BCTHW = self.conv1(x_BCTHW) + x_BCTHW
        if self.spatial:
            larger_NCHW = F.interpolate(fold_frames(x_BCTHW), scale_factor=2.0, mode="nearest")
            x_BCTHW = unfold_frames(larger_NCHW, x_BCTHW.shape[0])
            x_BCTHW = self.conv2(x_BCTHW) + x_BCTHW
        return self.conv3(x_BCTHW) if self.spatial or self.temporal else x_BCTHW


class _Attention(nn.Module):
    """What both attentions share: norm, one head as wide as the channels, and the output map with its residual."""

    def __init__(self, channels: int, of: Primitives = VIDEO) -> None:
        super().__init__()
        self.norm = of.norm(channels)
        self.q = of.point(channels, channels)
        self.k = of.point(channels, channels)
        self.v = of.point(channels, channels)
        self.proj_out = of.point(channels, channels)


class SpatialAttention(_Attention):
    """The pixels of each frame attend to one another."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        height, width = x_BCTHW.shape[-2:]
        h_BCTHW = self.norm(x_BCTHW)
        # Time takes the place of the heads: [B, T, H W, C].
        q, k, v = (conv(h_BCTHW).permute(0, 2, 3, 4, 1).flatten(2, 3) for conv in (self.q, self.k, self.v))
        y_BTLC = F.scaled_dot_product_attention(q, k, v)
        return x_BCTHW + self.proj_out(y_BTLC.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3))


class TemporalAttention(_Attention):
    """Each pixel attends to itself in this frame and the frames before."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        height, width = x_BCTHW.shape[-2:]
        h_BCTHW = self.norm(x_BCTHW)
        # Pixels take the place of the heads: [B, H W, T, C].
        q, k, v = (conv(h_BCTHW).permute(0, 3, 4, 2, 1).flatten(1, 2) for conv in (self.q, self.k, self.v))
        y_BLTC = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x_BCTHW + self.proj_out(y_BLTC.unflatten(1, (height, width)).permute(0, 4, 3, 1, 2))
