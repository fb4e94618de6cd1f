"""Layers against plain definitions: padded 3-D convolutions, explicit sums and softmax."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok.layers import (
    FrameNorm,
    PointwiseConv,
    SpatialAttention,
    SpatialConv,
    TemporalAttention,
    TemporalConv,
)
from cosmos_tok.resampling import Downsample, Upsample

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def clip(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def past_padded(x: Tensor, count: int) -> Tensor:
    return torch.cat([x[:, :, :1]] * count + [x], dim=2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 6, 5, 8, 10), (3, 6, 1, 4, 4)])
def test_convolutions_are_causal_3d_convolutions(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = clip(*shape).contiguous(memory_format=layout)
    spatial, halving = SpatialConv(6, 4), SpatialConv(6, 4, stride=2)
    temporal, strided = TemporalConv(6, 4), TemporalConv(6, 4, stride=2)
    point = PointwiseConv(6, 4)
    close(spatial(x), spatial.conv3d(F.pad(x, (1, 1, 1, 1))))
    close(halving(x), halving.conv3d(F.pad(x, (0, 1, 0, 1))))
    close(temporal(x), temporal.conv3d(past_padded(x, 2)))
    close(strided(x), strided.conv3d(past_padded(x, 2)))
    close(point(x), point.conv3d(x))


def test_both_kernels_of_the_temporal_convolution_agree() -> None:
    torch.manual_seed(0)
    conv, x = TemporalConv(6, 4), clip(2, 6, 5, 4, 4)
    close(conv(x).double(), conv.double()(x.double()))  # float64 takes the other one


def test_frame_norm_sees_one_frame_at_a_time() -> None:
    norm, x = FrameNorm(6), clip(2, 6, 3, 4, 4) * 3 + 1
    mean, var = x.mean(dim=(1, 3, 4), keepdim=True), x.var(dim=(1, 3, 4), keepdim=True, unbiased=False)
    close(norm(x), (x - mean) / (var + 1e-6).sqrt())


def test_layers_keep_the_layout_that_makes_them_fast() -> None:
    x = clip(2, 8, 5, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    layers = [FrameNorm(8), SpatialConv(8, 8), TemporalConv(8, 8), PointwiseConv(8, 8), SpatialAttention(8)]
    layers += [TemporalAttention(8), Downsample(8, spatial=True, temporal=True, extra=False)]
    layers += [Upsample(8, spatial=True, temporal=True, extra=False)]
    for layer in layers:
        assert layer(x).is_contiguous(memory_format=torch.channels_last_3d), layer


def test_downsampling_is_strided_convolution_plus_average() -> None:
    torch.manual_seed(0)
    x = clip(2, 6, 5, 8, 8)
    down = Downsample(6, spatial=True, temporal=True, extra=False)
    wide = F.pad(x, (0, 1, 0, 1))
    y = down.conv1.conv3d(wide) + F.avg_pool3d(wide, (1, 2, 2))
    y = down.conv2.conv3d(past_padded(y, 2)) + F.avg_pool3d(past_padded(y, 1), (2, 1, 1))
    close(down(x), down.conv3.conv3d(y))


def test_upsampling_is_repetition_plus_convolution() -> None:
    torch.manual_seed(0)
    x = clip(2, 6, 3, 4, 4)
    up = Upsample(6, spatial=True, temporal=True, extra=False)
    y = x[:, :, [0, 1, 1, 2, 2]]
    y = y + up.conv1.conv3d(past_padded(y, 2))
    y = y.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    y = y + up.conv2.conv3d(F.pad(y, (1, 1, 1, 1)))
    close(up(x), up.conv3.conv3d(y))
    assert up(x[:, :, :1]).shape == (2, 6, 1, 8, 8)


@pytest.mark.parametrize("resample", [Downsample, Upsample])
def test_unused_resampling_is_the_identity_and_extra_only_adds_weights(resample: type[nn.Module]) -> None:
    x = clip(1, 4, 3, 4, 4)
    bare = resample(4, spatial=False, temporal=False, extra=False)
    extra = resample(4, spatial=False, temporal=False, extra=True)
    assert torch.equal(bare(x), x)
    assert torch.equal(extra(x), x)
    assert not bare.state_dict()
    assert {name.split(".")[0] for name in extra.state_dict()} == {"conv1", "conv2", "conv3"}


@pytest.mark.parametrize("kind", [SpatialAttention, TemporalAttention])
def test_attention_is_softmax_over_pixels_or_past_frames(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = clip(2, 6, 3, 4, 5)
    layer = kind(6)
    q, k, v = (conv(layer.norm(x)) for conv in (layer.q, layer.k, layer.v))
    if kind is SpatialAttention:
        weight = (torch.einsum("bcthw,bctij->bthwij", q, k) / 6**0.5).flatten(4).softmax(-1).unflatten(4, (4, 5))
        y = torch.einsum("bthwij,bctij->bcthw", weight, v)
    else:
        score = torch.einsum("bcthw,bcshw->bhwts", q, k) / 6**0.5
        weight = score.masked_fill(torch.ones(3, 3).triu(1).bool(), float("-inf")).softmax(-1)
        y = torch.einsum("bhwts,bcshw->bcthw", weight, v)
    close(layer(x), x + layer.proj_out(y))
