"""The Haar patches against their definition by convolution, and the inverse."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from cosmos_tok import haar


def by_convolution(video: torch.Tensor, p: int) -> torch.Tensor:
    """The definition: per level, grouped stride-2 convolutions over t, h, w with (1, +-1)/sqrt(2), over 2 sqrt(2)."""
    x = torch.cat([video[:, :, :1].repeat(1, 1, p - 1, 1, 1), video], dim=2)
    low, high = torch.tensor([1.0, 1.0]) / math.sqrt(2), torch.tensor([1.0, -1.0]) / math.sqrt(2)
    for _ in range(int(math.log2(p))):
        bands = [x]
        for axis in range(3):
            shape, stride = [1, 1, 1, 1, 1], [1, 1, 1]
            shape[2 + axis], stride[axis] = 2, 2
            filters = [f.double().view(shape).repeat(x.shape[1], 1, 1, 1, 1) for f in (low, high)]
            bands = [F.conv3d(band, f, stride=stride, groups=x.shape[1]) for band, f in product(bands, filters)]
        x = torch.cat(bands, dim=1) / (2 * math.sqrt(2))
    return x


@pytest.mark.parametrize("p", [2, 4])
def test_patches_are_those_of_the_definition(p: int) -> None:
    video = torch.randn(2, 3, 9, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bands = haar.patch(video, p)
    assert bands.shape == (2, 3 * p**3, 1 + 8 // p, 8 // p, 16 // p)
    torch.testing.assert_close(bands, by_convolution(video, p), rtol=0, atol=1e-6)


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("num_frames", [1, 9])
def test_the_inverse_is_exact_where_sums_are(p: int, num_frames: int) -> None:
    levels = torch.randint(0, 256, (1, 3, num_frames, 8, 8), generator=torch.Generator().manual_seed(1))
    video = levels / 128 - 1
    assert torch.equal(haar.unpatch(haar.patch(video, p), p), video)


def test_the_inverse_of_any_video_is_within_rounding() -> None:
    video = torch.rand(1, 3, 9, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1
    torch.testing.assert_close(haar.unpatch(haar.patch(video, 4), 4), video, rtol=0, atol=5e-7)


def test_bfloat16_is_rounded_once_at_the_end() -> None:
    video = (torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1).bfloat16()
    bands = haar.patch(video, 4)
    assert torch.equal(bands, haar.patch(video.float(), 4).bfloat16())
    assert torch.equal(haar.unpatch(bands, 4), haar.unpatch(bands.float(), 4).bfloat16())


def test_the_first_frame_is_alone_in_its_patch() -> None:
    video = torch.randn(1, 3, 9, 8, 8, generator=torch.Generator().manual_seed(4))
    changed = video.clone()
    changed[:, :, 1:] += 1.0
    assert torch.equal(haar.patch(video, 4)[:, :, 0], haar.patch(changed, 4)[:, :, 0])
    # Constant in time, so nothing is left in the bands that are high in t at the second, more significant level.
    assert haar.patch(video, 4)[:, 96:, 0].abs().max() == 0


def images_by_convolution(video: torch.Tensor, p: int) -> torch.Tensor:
    """The definition for images: first along the width, then along the height, halved at every level."""
    x = video.transpose(1, 2).flatten(0, 1)
    filters = [torch.tensor([1.0, sign], dtype=torch.float64) / math.sqrt(2) for sign in (1.0, -1.0)]
    for _ in range(int(math.log2(p))):
        bands, groups = [x], x.shape[1]
        for shape, stride in (((1, 1, 1, 2), (1, 2)), ((1, 1, 2, 1), (2, 1))):
            kernels = [f.view(shape).repeat(groups, 1, 1, 1) for f in filters]
            bands = [F.conv2d(band, kernel, stride=stride, groups=groups) for band, kernel in product(bands, kernels)]
        x = torch.cat(bands, dim=1) / 2
    return x.unflatten(0, (video.shape[0], -1)).transpose(1, 2)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_patches_of_images_are_those_of_their_definition(p: int) -> None:
    video = torch.randn(2, 3, 3, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bands = haar.patch_frames(video, p)
    assert bands.shape == (2, 3 * p**2, 3, 8 // p, 16 // p)
    torch.testing.assert_close(bands, images_by_convolution(video, p), rtol=0, atol=1e-12)
    torch.testing.assert_close(haar.unpatch_frames(bands, p), video, rtol=0, atol=1e-12)


def test_filters_of_another_length_scale_both_directions() -> None:
    video = torch.randn(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(haar.patch(video, 4, gain=0.5), haar.patch(video, 4) * 0.5)
    bands = haar.patch(video, 4)
    assert torch.equal(haar.unpatch(bands, 4, gain=0.5), haar.unpatch(bands, 4) * 0.5)
