"""Long videos: each window begins with the pixels that the one before ended with, and none is shown twice.

The codec is one whose frames can be told apart: a latent frame is its number, of which four pixel frames are shown.
"""

import pytest
import torch
from torch import Tensor

from cosmos_train.generate.rollout import num_windows, roll_out

RATE, LATENT_FRAMES = 4, 3
FRAMES = 1 + RATE * (LATENT_FRAMES - 1)


def encode(pixels_B3THW: Tensor) -> Tensor:
    return pixels_B3THW[:, :1, ::RATE].float()


def decode(z_BCTHW: Tensor) -> Tensor:
    """Frame t of a window that begins at p shows p + t."""
    first = z_BCTHW[:, :, :1]
    return (first + torch.arange(FRAMES)[None, None, :, None, None]).expand(-1, 3, -1, -1, -1).to(torch.uint8)


@pytest.mark.parametrize("num_condition_frames", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 5, 9, 10, 17, 18, 40])
def test_a_clock_goes_on(num_frames: int, num_condition_frames: int):
    """A model that continues a clock from its conditions shows every number once, in order."""
    overlap = 1 + RATE * (num_condition_frames - 1)
    given_to: dict[int, Tensor | None] = {}

    def sample(given_BCTHW: Tensor | None, window: int) -> Tensor:
        given_to[window] = given_BCTHW
        start = torch.zeros(2, 1, 1, 1, 1) if given_BCTHW is None else given_BCTHW[:, :, :1]
        return start + RATE * torch.arange(LATENT_FRAMES)[None, None, :, None, None]

    video = roll_out(
        sample,
        None,
        encode=encode,
        decode=decode,
        num_frames=num_frames,
        window_frames=FRAMES,
        overlap_frames=overlap,
    )
    assert video[:, :, :, 0, 0].tolist() == [[list(range(num_frames))] * 3] * 2
    count = num_windows(num_frames, window_frames=FRAMES, overlap_frames=overlap)
    assert list(given_to) == list(range(count)) and given_to[0] is None
    assert all(given is not None and given.shape[2] == num_condition_frames for given in list(given_to.values())[1:])


def test_the_first_window_is_given_what_the_video_is():
    def sample(given_BCTHW: Tensor | None, _window: int) -> Tensor:
        assert given_BCTHW is not None
        return given_BCTHW

    video = roll_out(
        sample,
        torch.full((1, 1, 1, 1, 1), 7.0),
        encode=encode,
        decode=decode,
        num_frames=11,
        window_frames=FRAMES,
        overlap_frames=1,
    )
    assert video[0, 0, :, 0, 0].tolist() == list(range(7, 18))


@pytest.mark.parametrize(
    ("num_frames", "overlap", "count"),
    [(1, 1, 1), (9, 1, 1), (10, 1, 2), (17, 1, 2), (18, 1, 3), (10, 5, 2), (14, 5, 3)],
)
def test_number_of_windows(num_frames: int, overlap: int, count: int):
    assert num_windows(num_frames, window_frames=9, overlap_frames=overlap) == count


@pytest.mark.parametrize("overlap", [0, 9, 12])
def test_windows_must_overlap_and_go_on(overlap: int):
    assert num_windows(9, window_frames=9, overlap_frames=overlap) == 1
    with pytest.raises(ValueError, match=r"change sample.num_condition_frames"):
        num_windows(10, window_frames=9, overlap_frames=overlap)
