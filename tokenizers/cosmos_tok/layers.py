"""Layers of the causal video tokenizer: factorised convolutions, residual blocks and attention.

Every layer maps [B, C, T, H, W] to [B, C', T', H', W'] and none lets a frame see a later one: in time only the past is
padded, with copies of frame 0; norms and spatial layers treat each frame by itself.

Layout. Values are laid out channels-last (torch.channels_last_3d), so that folding time into the batch, and flattening
pixels into rows, are views. Any layout gives the same values; this one is what makes the layers fast. Kernels of
1 x 3 x 3 run as 2-D convolutions over folded frames: oneDNN's 3-D kernel is up to 3x slower at small widths.

A `Stream` says that x is a piece of a video whose earlier frames went through before. It is passed without gradients
only; where it is `fast`, layers answer by `kernels`. Without one they are what training runs.

Names follow the released state dicts: a convolution keeps its weight in a child called `conv3d`, a norm in `norm`.
Blocks take their norms and convolutions from a `Primitives`, because images have the same blocks made of 2-D ones.

B batch, C channels, T frames, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok import kernels
from cosmos_tok.stream import Stream


def fold_frames(x_BCTHW: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B T, C, H, W]; a view of a channels-last tensor."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_frames(x_NCHW: Tensor, batch: int) -> Tensor:
    """[B T, C, H, W] -> [B, C, T, H, W], the inverse of `fold_frames`; always a view."""
    return x_NCHW.unflatten(0, (batch, -1)).transpose(1, 2)


def swish(x: Tensor) -> Tensor:
    """Of a norm's result; in its place where no gradient will ask for it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def added(branch: Tensor, x: Tensor) -> Tensor:
    """x + branch, in the place of a branch that no gradient will ask for."""
    return x + branch if torch.is_grad_enabled() else branch.add_(x)


class Chain(nn.Sequential):
    """Layers one after another; none at all change nothing."""

    def forward(self, input: Tensor, stream: Stream | None = None) -> Tensor:
        for layer in self:
            input = layer(input, stream)
        return input


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

    def after(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [O, C, ...] and bias [O] of the convolution that is the given one with this map behind it."""
        point = self.conv3d.weight.flatten(1)
        return torch.tensordot(point, weight, dims=1), F.linear(bias, point, self.conv3d.bias)


class SpatialConv(nn.Module):
    """1 x 3 x 3. Stride 1 pads a zero on every side; stride 2 pads right and bottom only, and halves both sides."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, (1, 3, 3), stride=(1, stride, stride))
        self.stride = stride

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        x_NCHW, padding = fold_frames(x_BCTHW), 1
        weight = self.conv3d.weight.squeeze(2)
        if stream and stream.fast and self.stride == 1:
            y_NCHW = kernels.conv3x3(x_NCHW, weight, self.get_parameter("conv3d.bias"), winograd=stream.winograd)
            return unfold_frames(y_NCHW, x_BCTHW.shape[0])
        if self.stride == 2:
            x_NCHW, padding = F.pad(x_NCHW, (0, 1, 0, 1)), 0
        y_NCHW = F.conv2d(x_NCHW, weight, self.conv3d.bias, stride=self.stride, padding=padding)
        return unfold_frames(y_NCHW, x_BCTHW.shape[0])


class TemporalConv(nn.Module):
    """3 x 1 x 1 over a frame and the two before it, frame 0 being repeated; stride 2 maps 1 + 2n frames to 1 + n."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, (3, 1, 1), stride=(stride, 1, 1))
        self.stride = stride

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        before = [x_BCTHW[:, :, :1]] * 2
        if stream:
            seen = stream.frames_before(self, x_BCTHW, keep=3 - self.stride)
            if stream.fast:
                frames, taps = [*seen, *x_BCTHW.unbind(2)], self.conv3d.weight.flatten(2).unbind(2)
                bias = self.get_parameter("conv3d.bias")
                return kernels.conv_in_time(frames, taps, bias, stride=self.stride, begun=stream.begun)
            before = [frame_BCHW.unsqueeze(2) for frame_BCHW in seen]
        padded_BCTHW = torch.cat([*before, x_BCTHW], dim=2)
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


class FactorizedConv(Chain):
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

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        h_BCTHW = self.conv1(swish(self.norm1(x_BCTHW)), stream)
        h_BCTHW = self.conv2(swish(self.norm2(h_BCTHW)), stream)
        return added(h_BCTHW, self.nin_shortcut(x_BCTHW))


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

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        height, width = x_BCTHW.shape[-2:]
        h_BCTHW = self.norm(x_BCTHW)
        # Time takes the place of the heads: [B, T, H W, C].
        q, k, v = (conv(h_BCTHW).permute(0, 2, 3, 4, 1).flatten(2, 3) for conv in (self.q, self.k, self.v))
        y_BTLC = F.scaled_dot_product_attention(q, k, v)
        y_BCTHW = y_BTLC.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)
        return added(self.proj_out(y_BCTHW), x_BCTHW)


class TemporalAttention(_Attention):
    """Each pixel attends to itself in this frame and the frames before."""

    def forward(self, x_BCTHW: Tensor, stream: Stream | None = None) -> Tensor:
        h_BCTHW = self.norm(x_BCTHW)
        y_BCTHW = self._attend_to_history(h_BCTHW, stream) if stream else self._attend(h_BCTHW)
        return added(self.proj_out(y_BCTHW), x_BCTHW)

    def _attend(self, h_BCTHW: Tensor) -> Tensor:
        # Pixels take the place of the heads: [B, H W, T, C].
        q, k, v = (conv(h_BCTHW).permute(0, 3, 4, 2, 1).flatten(1, 2) for conv in (self.q, self.k, self.v))
        y_BLTC = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y_BLTC.unflatten(1, h_BCTHW.shape[-2:]).permute(0, 4, 3, 1, 2)

    def _attend_to_history(self, h_BCTHW: Tensor, stream: Stream) -> Tensor:
        """The same, of a video's next frames h.

        Kept of a frame is h, not its key and value, which is half as much and enough: q k = (q W_k) h + q b_k, whose
        last term is the same for all frames, and so nothing to a softmax; and the values' mean is the value of the
        mean of h.
        """
        history = stream.history.setdefault(self, [])
        history.append(h_BCTHW)
        q_BTHWC = self.q(h_BCTHW).permute(0, 2, 3, 4, 1)
        q_BTHWC = q_BTHWC @ self.k.get_parameter("conv3d.weight").flatten(1) * q_BTHWC.shape[-1] ** -0.5
        q_BHWTC = q_BTHWC.permute(0, 2, 3, 1, 4)
        seen = [piece_BCTHW.permute(0, 3, 4, 2, 1) for piece_BCTHW in history]  # [B, H, W, t, C] each
        scores_BHWTS = torch.cat([q_BHWTC @ piece.mT for piece in seen], dim=-1)
        new, total = scores_BHWTS.shape[-2:]
        later_TS = torch.ones(new, total, dtype=torch.bool, device=h_BCTHW.device).triu(total - new + 1)
        weights = scores_BHWTS.masked_fill_(later_TS, -torch.inf).softmax(dim=-1)
        parts = weights.split([piece.shape[-2] for piece in seen], dim=-1)
        mean_BHWTC = sum((part @ piece for part, piece in zip(parts, seen, strict=True)), start=torch.zeros(()))
        return self.v(mean_BHWTC.permute(0, 4, 3, 1, 2))
