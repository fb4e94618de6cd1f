"""Long videos: each window begins with the pixels that the one before ended with, and none is shown twice.

The codec is one whose frames can be told apart: a latent frame is its number, of which four pixel frames are shown.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.bare_world import FPS, FRAMES, LATENT_FRAMES, RATE, BareWorld, make_codec
from torch import Tensor

from cosmos_data.errors import DataError
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.rollout import num_windows
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.worlds.world import Clock, OnStep, TrainedWindows, WindowRequest

START = torch.zeros(2, 1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counter(BareWorld):
    """A model that continues to count from its conditions."""

    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        return pixels_B3THW[:, :1, ::RATE].float()

    def decode(self, latents: Tensor) -> Tensor:
        """Frame t of a window that begins at p shows p + t."""
        shown = torch.arange(1 + RATE * (latents.shape[2] - 1))[None, None, :, None, None]
        return (latents[:, :, :1] + shown).expand(-1, 3, -1, -1, -1).to(torch.uint8)

    def sample_window(self, request: WindowRequest, on_step: OnStep = lambda _step: None) -> Tensor:
        self.requests.append(request)
        for step in range(request.num_latent_frames):
            on_step(step + 1)
        start = START if request.given is None else request.given[:, :, :1]
        return start + RATE * torch.arange(request.num_latent_frames)[None, None, :, None, None]


@pytest.fixture(scope="module")
def counter():
    yield Counter(
        path=Path("counter"),
        mesh=init.start(ParallelConfig(), seed=0),
        dtype=torch.float32,
        sampling=SampleConfig(),
        codec=make_codec(),
        windows=TrainedWindows(latent_shape=(1, LATENT_FRAMES, 1, 1), fps=FPS),
    )
    init.stop()


def counting(counter: Counter, *, num_condition_frames: int = 1) -> Counter:
    """The same with a memory of its own."""
    return replace(counter, requests=[], sampling=SampleConfig(num_condition_frames=num_condition_frames))


@pytest.mark.parametrize("num_condition_frames", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 5, 9, 10, 17, 18, 40])
def test_a_clock_goes_on(counter: Counter, num_frames: int, num_condition_frames: int):
    """A model that continues a clock from its conditions shows every number once, in order."""
    world, told = counting(counter, num_condition_frames=num_condition_frames), list[tuple[int, int]]()
    clock = Clock()
    video = world.sample(
        seeds=[3, 4], num_frames=num_frames, on_progress=lambda *counts: told.append(counts), clock=clock
    )
    assert video[:, :, :, 0, 0].tolist() == [[list(range(num_frames))] * 3] * 2
    overlap = 1 + RATE * (num_condition_frames - 1)
    count = num_windows(num_frames, window_frames=FRAMES, overlap_frames=overlap)
    first, *others = world.requests
    assert len(world.requests) == count and first.given is None and list(first.seeds) == [3, 4]
    assert all(other.given is not None and other.given.shape[2] == num_condition_frames for other in others)
    seeds = [seed for request in world.requests for seed in request.seeds]
    assert len(set(seeds)) == 2 * count, "each window is drawn anew"
    total = count * first.num_latent_frames
    assert told == [(step + 1, total) for step in range(total)]
    assert min(clock.conditioned_sec, clock.sampled_sec, clock.coded_sec) > 0


def test_the_first_window_is_given_what_the_video_is(counter: Counter):
    video = counting(counter).sample("", torch.full((3, 1, 1, 1), 7, dtype=torch.uint8), seeds=[0], num_frames=11)
    assert video[0, 0, :, 0, 0].tolist() == list(range(7, 18))


def test_a_model_that_reads_no_text_is_given_none(counter: Counter):
    with pytest.raises(ConfigError, match="prompt='a ball' is for a model that reads text, and counter reads none"):
        counter.sample("a ball")


def test_frames_behind_latent_frames(counter: Counter):
    assert [counter.frames_for(number) for number in (1, 2, 3)] == [1, 5, 9]
    with pytest.raises(DataError, match="4 latent frames were asked for, the model was trained on 3"):
        counter.frames_for(4)


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
