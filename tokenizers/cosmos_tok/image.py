"""Layers of the image tokenizers: 2-D convolutions, norms of 32 groups, resampling by convolution alone.

They map [B, C, T, H, W] to [B, C', T, H', W'] as the video layers do, and treat every frame by itself. In the released
state dicts a convolution's weight stands right under the layer's name, e.g. `encoder.down.0.block.0.conv1.weight`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok import kernels
from cosmos_tok.config import IMAGE_NORM_GROUPS
from cosmos_tok.layers import Primitives, fold_frames, unfold_frames
from cosmos_tok.stream import Stream


class FrameConv(nn.Conv2d):
    """A 2-D convolution of every frame of the input [B, C, T, H, W]."""

    def forward(self, input: Tensor, stream: Stream | None = None) -> Tensor:
        x_NCHW = fold_frames(input)
        if stream and stream.fast and self.padding == (1, 1):
            y_NCHW = kernels.conv3x3(x_NCHW, self.weight, self.get_parameter("bias"), winograd=stream.winograd)
        else:
            y_NCHW = super().forward(x_NCHW)
        return unfold_frames(y_NCHW, input.shape[0])


class GroupedNorm(nn.GroupNorm):
    """Group norm of every frame of the input [B, C, T, H, W] by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__(IMAGE_NORM_GROUPS, channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return unfold_frames(super().forward(fold_frames(input)), input.shape[0])


class ImageDownsample(nn.Module):
    """Half as many rows and columns; zeros stand right of and below the frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels, 3, stride=2)

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        return self.conv(F.pad(x_BCTHW, (0, 1, 0, 1)), stream)


class ImageUpsample(nn.Module):
    """Twice as many rows and columns: every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = FrameConv(channels, channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        if stream and stream.fast:
            taps = kernels.doubled_taps(self.conv.weight)
            bias = self.conv.get_parameter("bias")
            y_NCHW = kernels.double_space(fold_frames(x_BCTHW), taps, bias, winograd=stream.winograd)
            return unfold_frames(y_NCHW, x_BCTHW.shape[0])
        larger_NCHW = F.interpolate(fold_frames(x_BCTHW), scale_factor=2.0, mode="nearest")
        return self.conv(unfold_frames(larger_NCHW, x_BCTHW.shape[0]))


IMAGE = Primitives(
    norm=GroupedNorm,
    conv=lambda in_channels, out_channels: FrameConv(in_channels, out_channels, 3, padding=1),
    point=lambda in_channels, out_channels: FrameConv(in_channels, out_channels, 1),
)
