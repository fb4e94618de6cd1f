"""Resampling of videos: halving and doubling of space and time, each by a convolution beside a plain average or copy.

Every layer has two forms that give the same values. The plain one is what training runs. The folded one, for a `Stream`
that is `fast`, puts the average or the copies, the residual and the linear map behind them into the convolution's
weights, where they cost nothing: none of these has a nonlinearity in between.

B batch, C channels, T frames, H rows, W columns, O output channels.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok import kernels
from cosmos_tok.layers import PointwiseConv, SpatialConv, TemporalConv, fold_frames, unfold_frames
from cosmos_tok.stream import Stream


class _Resampling(nn.Module, ABC):
    """What both directions share: which form is run."""

    def __init__(self, *, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.spatial, self.temporal = spatial, temporal

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        if not (self.spatial or self.temporal):
            return x_BCTHW
        if not (stream and stream.fast):
            return self.plain(x_BCTHW, stream)
        if self not in stream.weights:
            stream.weights[self] = self.folded_weights()
        return self.folded(x_BCTHW, stream, *stream.weights[self])

    def freeze_unused(self, *, in_space: str, in_time: str) -> None:
        """Freeze the convolutions that nothing calls: they get no gradient, which gradient sums would wait for."""
        is_used = {in_space: self.spatial, in_time: self.temporal, "conv3": self.spatial or self.temporal}
        for name, conv in self.named_children():
            conv.requires_grad_(is_used[name])

    @abstractmethod
    def plain(self, x_BCTHW: Tensor, stream: Stream | None) -> Tensor: ...

    @abstractmethod
    def folded(self, x_BCTHW: Tensor, stream: Stream, *weights: Tensor) -> Tensor: ...

    @abstractmethod
    def folded_weights(self) -> tuple[Tensor, ...]:
        """Weight and bias of each convolution of the folded form, in the order in which they are run."""


class Downsample(_Resampling):
    """Halve space, time or both, each as strided convolution plus average; then a linear map. 1+2n frames -> 1+n.

    `extra` also creates the convolutions that are not used, as the files of the 0.1 release have them; they are frozen.
    """

    def __init__(self, channels: int, *, spatial: bool, temporal: bool, extra: bool) -> None:
        super().__init__(spatial=spatial, temporal=temporal)
        if spatial or extra:
            self.conv1 = SpatialConv(channels, channels, stride=2)
        if temporal or extra:
            self.conv2 = TemporalConv(channels, channels, stride=2)
        if spatial or temporal or extra:
            self.conv3 = PointwiseConv(channels, channels)
        self.freeze_unused(in_space="conv1", in_time="conv2")

    def plain(self, x_BCTHW: Tensor, stream: Stream | None) -> Tensor:
        if self.spatial:
            average_NCHW = F.avg_pool2d(fold_frames(x_BCTHW), 2)
            x_BCTHW = self.conv1(x_BCTHW) + unfold_frames(average_NCHW, x_BCTHW.shape[0])
        if self.temporal:
            alone = 0 if stream and stream.begun else 1  # frame 0 has no pair
            pairs_BCTHW = (x_BCTHW[:, :, alone::2] + x_BCTHW[:, :, alone + 1 :: 2]) / 2
            x_BCTHW = self.conv2(x_BCTHW, stream) + torch.cat([x_BCTHW[:, :, :alone], pairs_BCTHW], dim=2)
        return self.conv3(x_BCTHW)

    def folded(self, x_BCTHW: Tensor, stream: Stream, *weights: Tensor) -> Tensor:
        if self.spatial:
            padded_NCHW = F.pad(fold_frames(x_BCTHW), (0, 1, 0, 1))
            x_BCTHW = unfold_frames(F.conv2d(padded_NCHW, *weights[:2], stride=2), x_BCTHW.shape[0])
        if self.temporal:
            frames = [*stream.frames_before(self.conv2, x_BCTHW, keep=1), *x_BCTHW.unbind(2)]
            x_BCTHW = kernels.conv_in_time(frames, weights[-2].unbind(2), weights[-1], stride=2, begun=stream.begun)
        return x_BCTHW

    def folded_weights(self) -> tuple[Tensor, ...]:
        weights: list[Tensor] = []
        if self.spatial:
            conv = self.conv1.conv3d
            quarter_OC11 = torch.eye(conv.out_channels)[..., None, None] / 4
            weights += [conv.weight.squeeze(2) + F.pad(quarter_OC11.expand(-1, -1, 2, 2), (0, 1, 0, 1)), conv.bias]
        if self.temporal:
            conv = self.conv2.conv3d
            half_OC1 = torch.eye(conv.out_channels).unsqueeze(2) / 2
            weights += [conv.weight.flatten(2) + F.pad(half_OC1.expand(-1, -1, 2), (1, 0)), conv.bias]
        return (*weights[:-2], *self.conv3.after(*weights[-2:]))


class Upsample(_Resampling):
    """Double time, space or both, each as repetition plus a convolution of it; then a linear map. 1+n frames -> 1+2n.

    `extra` also creates the convolutions that are not used, as the files of the 0.1 release have them; they are frozen.
    """

    def __init__(self, channels: int, *, spatial: bool, temporal: bool, extra: bool) -> None:
        super().__init__(spatial=spatial, temporal=temporal)
        if temporal or extra:
            self.conv1 = TemporalConv(channels, channels)
        if spatial or extra:
            self.conv2 = SpatialConv(channels, channels)
        if spatial or temporal or extra:
            self.conv3 = PointwiseConv(channels, channels)
        self.freeze_unused(in_space="conv2", in_time="conv1")

    def plain(self, x_BCTHW: Tensor, stream: Stream | None) -> Tensor:
        if self.temporal:
            # Frames 0, 1, 1, 2, 2 ...: every frame twice, but frame 0 once, since it stands for a single frame.
            alone = 0 if stream and stream.begun else 1
            source_T = torch.arange(alone, 2 * x_BCTHW.shape[2], device=x_BCTHW.device) // 2
            x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1).index_select(1, source_T)
            x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
            x_BCTHW = self.conv1(x_BCTHW, stream) + x_BCTHW
        if self.spatial:
            larger_NCHW = F.interpolate(fold_frames(x_BCTHW), scale_factor=2.0, mode="nearest")
            x_BCTHW = unfold_frames(larger_NCHW, x_BCTHW.shape[0])
            x_BCTHW = self.conv2(x_BCTHW) + x_BCTHW
        return self.conv3(x_BCTHW)

    def folded(self, x_BCTHW: Tensor, stream: Stream, *weights: Tensor) -> Tensor:
        if self.temporal:
            before_BCHW = stream.frames_before(self.conv1, x_BCTHW, keep=1)[-1]
            frames = [before_BCHW, *x_BCTHW.unbind(2)]
            x_BCTHW = kernels.double_time(frames, weights[0].unbind(2), weights[1], begun=stream.begun)
        if self.spatial:
            y_NCHW = kernels.double_space(fold_frames(x_BCTHW), *weights[-2:], winograd=stream.winograd)
            x_BCTHW = unfold_frames(y_NCHW, x_BCTHW.shape[0])
        return x_BCTHW

    def folded_weights(self) -> tuple[Tensor, ...]:
        weights: list[Tensor] = []
        if self.temporal:
            conv = self.conv1.conv3d
            weights += [conv.weight.flatten(2) + F.pad(torch.eye(conv.out_channels).unsqueeze(2), (2, 0)), conv.bias]
        if self.spatial:
            conv = self.conv2.conv3d
            one_OC11 = torch.eye(conv.out_channels)[..., None, None]
            weights += [conv.weight.squeeze(2) + F.pad(one_OC11, (1, 1, 1, 1)), conv.bias]
        weights[-2:] = self.conv3.after(*weights[-2:])
        if self.spatial:
            weights[-2] = kernels.doubled_taps(weights[-2])
        return tuple(weights)
