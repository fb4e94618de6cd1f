"""Layers of image tokenizers: each frame by itself, and the fast kernels give what the plain ones give."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cosmos_tok.image import FrameConv, GroupedNorm, ImageDownsample, ImageUpsample
from cosmos_tok.stream import Stream

FAST = Stream(fast=True, winograd=True)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: FrameConv(32, 6, 3, padding=1),
    "point": lambda: FrameConv(32, 6, 1),
    "down": lambda: ImageDownsample(32),
    "up": lambda: ImageUpsample(32),
}


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_frames_do_not_see_each_other_and_kernels_agree(name: str):
    torch.manual_seed(0)
    layer, x_BCTHW = LAYERS[name](), torch.randn(2, 32, 3, 8, 12)
    whole: Tensor = layer(x_BCTHW)
    for frame in range(3):
        torch.testing.assert_close(layer(x_BCTHW[:, :, frame : frame + 1]), whole[:, :, frame : frame + 1])
    torch.testing.assert_close(layer(x_BCTHW, FAST), whole, rtol=0, atol=1e-5)
    factor = {"down": (4, 6), "up": (16, 24)}.get(name, (8, 12))
    assert whole.shape[2:] == (3, *factor)


@torch.no_grad()
def test_a_norm_is_of_each_frame_alone():
    x_BCTHW = torch.randn(1, 64, 2, 4, 4) * torch.tensor([1.0, 50.0]).view(1, 1, 2, 1, 1)
    y_BCTHW = GroupedNorm(64)(x_BCTHW)
    groups = y_BCTHW.unflatten(1, (32, 2)).permute(0, 3, 1, 2, 4, 5).flatten(3)  # [B, T, groups, values]
    torch.testing.assert_close(groups.mean(-1), torch.zeros(1, 2, 32), rtol=0, atol=1e-5)
    torch.testing.assert_close(groups.std(-1, unbiased=False), torch.ones(1, 2, 32), rtol=0, atol=1e-3)


@torch.no_grad()
def test_halving_pads_right_and_below():
    layer = ImageDownsample(1)
    layer.conv.weight.fill_(0)
    layer.conv.weight[0, 0, 2, 2] = 1  # looks at the pixel that is last in its window
    layer.conv.get_parameter("bias").fill_(0)
    picture = torch.arange(16.0).view(1, 1, 1, 4, 4)
    assert layer(picture).flatten().tolist() == [10.0, 0.0, 0.0, 0.0]
