from dataclasses import replace

import numpy as np
import pytest
import torch
from support.clips import CLIP

from cosmos_data.config import DataConfig
from cosmos_data.decoders.transform import cut_and_scale, fit_frames, fit_picture, pad_by_reflection
from cosmos_data.errors import ClipError
from cosmos_data.sample_plan.plan import central_sample
from cosmos_data.sample_plan.window import Box


def picture_numbers() -> torch.Tensor:
    """[2, 8, 10, 3] with every value telling where it stands."""
    t, h, w, c = torch.meshgrid(*(torch.arange(size) for size in (2, 8, 10, 3)), indexing="ij")
    return (t * 120 + h * 12 + w + c * 5).to(torch.uint8)


@pytest.mark.parametrize("flip", [False, True])
def test_cut(flip):
    frames = picture_numbers()
    cut = cut_and_scale(frames, Box(top_px=2, left_px=3, height_px=4, width_px=6), 4, 6, flip=flip)
    columns = range(8, 2, -1) if flip else range(3, 9)
    for place, column in enumerate(columns):
        assert torch.equal(cut[:, :, :, place], frames[:, 2:6, column].permute(2, 0, 1))


def test_scaling_averages_over_the_area():
    """Stripes of which every fourth is bright become their mean: no aliasing, the brightness is kept."""
    stripes = (torch.arange(64) % 4 == 0).to(torch.uint8)[None, None, :, None].expand(1, 64, 64, 3) * 200
    quarter = cut_and_scale(stripes, Box(top_px=0, left_px=0, height_px=64, width_px=64), 16, 16, flip=False)
    inner = quarter[:, :, 2:-2, 2:-2].float()
    assert (inner - 50).abs().max() <= 2


def test_scaling_keeps_a_ramp_in_place():
    ramp = torch.arange(0, 240, 2).to(torch.uint8)[None, None, :, None].expand(1, 90, 120, 3)
    scaled = cut_and_scale(ramp, Box(top_px=0, left_px=30, height_px=90, width_px=60), 45, 30, flip=False)
    centres = 2 * (30 + 2 * (torch.arange(30) + 0.5) - 0.5)
    assert (scaled[0, 0, 20, 2:-2].float() - centres[2:-2]).abs().max() <= 1


def test_padding_mirrors_the_picture_to_and_fro():
    row = torch.arange(3, dtype=torch.uint8).expand(3, 1, 1, 3)
    padded = pad_by_reflection(row, Box(top_px=0, left_px=4, height_px=1, width_px=3), 1, 10)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]
    # Where both can, torch's own reflection says the same.
    picture = torch.randint(0, 255, (3, 2, 5, 7), dtype=torch.uint8)
    inner = Box(top_px=2, left_px=3, height_px=5, width_px=7)
    expected = torch.nn.functional.pad(picture.float(), (3, 2, 2, 4), mode="reflect").to(torch.uint8)
    assert torch.equal(pad_by_reflection(picture, inner, 11, 12), expected)


@pytest.mark.parametrize(
    "changes", [{}, {"flip": True}, {"height_px": 20}, {"inner": Box(top_px=4, left_px=0, height_px=22, width_px=50)}]
)
def test_one_picture_is_placed_as_many_are(changes):
    """Whether it is copied, mirrored, scaled or padded."""
    box = Box(top_px=3, left_px=7, height_px=30, width_px=50)
    clip = replace(CLIP, height_px=40, width_px=60)
    data = DataConfig(manifest="m", num_frames=1, height_px=30, width_px=50, resize="crop", flip=False)
    sample = replace(central_sample(clip, data), box=box, **changes)
    picture_HWC = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    window_3HW = np.zeros((3, sample.height_px, sample.width_px), np.uint8)
    fit_picture(list(picture_HWC[box.rows, box.columns].transpose(2, 0, 1)), sample, window_3HW)
    assert np.array_equal(window_3HW, fit_frames(torch.from_numpy(picture_HWC)[None], sample)[:, 0].numpy())
    with pytest.raises(ClipError, match="is 50x40 px, the manifest says 60x40"):
        fit_frames(torch.from_numpy(picture_HWC[:, :50])[None], sample)
