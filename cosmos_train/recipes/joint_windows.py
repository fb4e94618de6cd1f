"""Which windows of the latent caches a step of a world model reads: of videos, or of images, by the step's number.

Mini-batches are of one kind and alternate (arXiv 2501.03575): every rank agrees, and so does a run that was resumed. An
image is a video of one latent frame; in an image step each sample of the run stands for `images_per_video` of them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_data.latents import LatentStore
from cosmos_data.order import Alternation, IndexPlan
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldRun
from cosmos_train.models.common.flops import Cost

Kind = Literal["image", "video"]
KINDS: tuple[Kind, Kind] = ("image", "video")


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What a tokenizer and a text encoder made of a window and its caption."""

    z_CTHW: Tensor
    """Latents, not whitened; or codes, with C = 1."""
    text_SE: Tensor
    """Zeros may follow its tokens' states."""
    fps: float
    padding_1HW: Tensor
    """1 where a latent cell is padding."""


class CachedWindows:
    """The training windows of one latent cache, in the run's order."""

    def __init__(self, folder: str, seed: int) -> None:
        self.store = LatentStore(folder)
        self.windows = self.store.indices("train")
        self.plan = IndexPlan(len(self.windows), self.store.digest, seed)

    def at(self, places: Sequence[int]) -> list[Window]:
        """Those at these places of the order, which has no end."""
        return [read_window(self.store, self.windows[self.plan.item(place)]) for place in places]


def read_window(store: LatentStore, k: int) -> Window:
    """The k-th of a cache."""
    window = store.window(k)
    return Window(z_CTHW=window.z_CTHW, text_SE=window.text_SE, fps=window.fps, padding_1HW=window.padding_1HW)


@dataclass(frozen=True, slots=True)
class Picked:
    """The windows of a micro-batch."""

    kind: Kind
    windows: list[Window]
    numbers: Sequence[int]
    """Of each among all windows of this kind's steps: what its randomness is drawn by."""


class JointWindows:
    """The windows of each sample of the run."""

    def __init__(self, run: WorldRun) -> None:
        self._run = run
        self.videos, self.images = CachedWindows(run.latents.folder, run.seed), None
        if run.latents.image_folder is not None:
            self.images = CachedWindows(run.latents.image_folder, run.seed)
            num_frames = self.images.store.latent_shape[1]
            if num_frames != 1:
                raise ConfigError(
                    f"latents.image_folder={run.latents.image_folder} holds windows of {num_frames} latent frames, not "
                    "images; tokenize it with data.num_frames=1"
                )
        share = Fraction(run.image_share).limit_denominator(10**6)
        self._turns = Alternation([share, 1 - share])

    @property
    def stores(self) -> dict[Kind, LatentStore]:
        """The caches there are."""
        if self.images is None:
            return {"video": self.videos.store}
        return {"video": self.videos.store, "image": self.images.store}

    @property
    def digest(self) -> str:
        """Names what sample indices point into."""
        if self.images is None:
            return self.videos.store.digest
        both = f"{self.videos.store.digest}/{self.images.store.digest}/{self._run.image_share}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """[C, T, H, W] of videos, and of images where there are any."""
        return self.videos.store.latent_shape, None if self.images is None else self.images.store.latent_shape

    def picks(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[Picked]:
        """Of one micro-batch after the other: a latent is small, and read when it is wanted."""
        return (self.pick(indices) for indices in micro_batches)

    def pick(self, indices: Sequence[int]) -> Picked:
        """Those of these sample indices, which belong to one step of the run."""
        size = self._run.train.global_batch_size
        number, turns_before = self._turns.turn(indices[0] // size)
        places = [turns_before * size + index % size for index in indices]
        if KINDS[number] == "video":
            return Picked("video", self.videos.at(places), indices)
        assert self.images is not None, "image_share and latents.image_folder are set together"
        each = range(self._run.images_per_video)
        places, numbers = ([n * len(each) + i for n in many for i in each] for many in (places, indices))
        return Picked("image", self.images.at(places), numbers)


def mean_cost(run: WorldRun, videos: Cost, images: Cost | None) -> Cost:
    """The work of a step: the mean over many steps of videos and of images."""
    if images is None:
        return videos
    share = Fraction(run.image_share).limit_denominator(10**6)
    return videos * (1 - share) + images * share


def stack_latents(windows: Sequence[Window], device: torch.device) -> Tensor:
    """[B, C, T, H, W], as the cache has them."""
    return torch.stack([window.z_CTHW for window in windows]).to(device)


def stack_text(windows: Sequence[Window], max_tokens: int, device: torch.device) -> Tensor:
    """[B, S, E]: text states followed by zeros, as the model sees every prompt."""
    padded = [F.pad(window.text_SE, (0, 0, 0, max_tokens - len(window.text_SE))) for window in windows]
    return torch.stack(padded).to(device)
