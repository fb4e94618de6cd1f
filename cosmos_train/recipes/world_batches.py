"""What a world model's run reads: whitened latents of videos and of images, by plan, each with its noise.

Images and videos alternate by the step's number (arXiv 2501.03575: mini-batches of either, with whitening statistics
of their own): every rank agrees, and so does a run that was resumed. An image is a video of one latent frame; in an
image step each sample of the run stands for `images_per_video` of them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_data.latents import LatentStore
from cosmos_data.order import Alternation, IndexPlan
from cosmos_tok.whitening import load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.flops import num_tokens
from cosmos_train.objectives.edm import NoiseDraw, draw_noise

STATISTICS = "latent_statistics.safetensors"
"""Whitening statistics inside a latent cache, as `cosmos-train tokenize` writes them."""
IMAGE, VIDEO = 0, 1
KINDS = ("image", "video")


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """A micro-batch, all of one kind, on this rank's device."""

    kind: str
    """image or video."""
    x0_BCTHW: Tensor
    """Whitened latents times sigma_data, fp32."""
    text_BSE: Tensor
    """Zeros where the sample's text was dropped."""
    fps_B: list[float]
    padding_B1HW: Tensor
    """1 where a latent cell is padding."""
    draw: NoiseDraw


class LatentSource:
    """The training windows of one latent cache, in the run's order, whitened by the statistics that lie in it."""

    def __init__(self, folder: str, model: DiTConfig, seed: int) -> None:
        self.store = LatentStore(folder)
        check_fits(model, self.store)
        self.windows = self.store.indices("train")
        self.plan = IndexPlan(len(self.windows), self.store.digest, seed)
        self.statistics = load_statistics(self.store.folder / STATISTICS)

    def load(self, places: Sequence[int], kind: str, draw: NoiseDraw, run: WorldDiTRun) -> WorldBatch:
        """The windows at these places of the order, on the device of the draw."""
        windows = [self.store.window(self.windows[self.plan.item(place)]) for place in places]
        device = draw.sigma_B.device
        z_BCTHW = torch.stack([window["z_CTHW"] for window in windows]).to(device, torch.float32)
        return make_batch(
            kind,
            self.statistics.whiten(z_BCTHW) * run.objective.sigma_data,
            torch.stack([pad_text(window["text_SE"], run.text.max_tokens) for window in windows]).to(device),
            [window["fps"] for window in windows],
            torch.stack([window["padding_1HW"] for window in windows]).to(device),
            draw,
        )


class WorldBatches:
    """Which latents and which noise each sample of the run has."""

    def __init__(self, run: WorldDiTRun, device: torch.device) -> None:
        self.run, self.device = run, device
        self.videos = LatentSource(run.latents.folder, run.model, run.seed)
        check_condition_frames(run, self.videos.store.latent_shape[1])
        self.images = None
        if run.latents.image_folder is not None:
            self.images = LatentSource(run.latents.image_folder, run.model, run.seed)
            if self.images.store.latent_shape[1] != 1:
                raise ConfigError(
                    f"latents.image_folder={run.latents.image_folder} holds windows of "
                    f"{self.images.store.latent_shape[1]} latent frames, not images; tokenize it with data.num_frames=1"
                )
        share = Fraction(run.image_share).limit_denominator(10**6)
        self.turns = Alternation([share, 1 - share])

    @property
    def digest(self) -> str:
        """Names what sample indices point into."""
        if self.images is None:
            return self.videos.store.digest
        both = f"{self.videos.store.digest}/{self.images.store.digest}/{self.run.image_share}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """[C, T, H, W] of videos, and of images where there are any."""
        return self.videos.store.latent_shape, None if self.images is None else self.images.store.latent_shape

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[WorldBatch]:
        """One after the other: a latent is small, and read when it is wanted."""
        return (self.load(indices) for indices in micro_batches)

    def load(self, indices: Sequence[int]) -> WorldBatch:
        """The micro-batch of these sample indices, which belong to one step of the run."""
        run, size = self.run, self.run.train.global_batch_size
        kind, turns_before = self.turns.turn(indices[0] // size)
        source, numbers, stream = self.videos, list(indices), "noise"
        places = [turns_before * size + index % size for index in indices]
        if kind == IMAGE:
            assert self.images is not None, "image_share and latents.image_folder are set together"
            source, stream, each = self.images, "image noise", range(run.images_per_video)
            places, numbers = ([n * len(each) + i for n in many for i in each] for many in (places, numbers))
        draw = draw_noise(
            run.objective, seed=run.seed, indices=numbers, shape_CTHW=source.store.latent_shape, stream=stream
        )
        return source.load(places, KINDS[kind], draw.to(self.device), run)


def make_batch(
    kind: str, x0_BCTHW: Tensor, text_BSE: Tensor, fps_B: list[float], padding_B1HW: Tensor, draw: NoiseDraw
) -> WorldBatch:
    """Without the texts that the draw drops."""
    return WorldBatch(
        kind=kind,
        x0_BCTHW=x0_BCTHW,
        text_BSE=text_BSE * (~draw.drop_text_B)[:, None, None],
        fps_B=fps_B,
        padding_B1HW=padding_B1HW,
        draw=draw,
    )


def check_condition_frames(run: WorldDiTRun, num_latent_frames: int) -> None:
    """Raises ConfigError where nothing would be left to predict."""
    if run.objective.max_condition_frames >= max(num_latent_frames, 2):
        raise ConfigError(
            f"objective.max_condition_frames={run.objective.max_condition_frames}, but the windows of "
            f"{run.latents.folder} have {num_latent_frames} latent frames and one must be left to predict; use at most "
            f"{num_latent_frames - 1}"
        )


def pad_text(text_SE: Tensor, max_tokens: int) -> Tensor:
    """Text states followed by zeros, as the model sees every prompt."""
    return F.pad(text_SE, (0, 0, 0, max_tokens - len(text_SE)))


def check_fits(model: DiTConfig, store: LatentStore) -> None:
    """The latent cache must be of the sizes that the model takes. Raises ConfigError."""
    channels, *latent_THW = store.latent_shape
    text_width = store.window(0)["text_SE"].shape[1]
    for key, configured, found in (
        ("latent_channels", model.latent_channels, channels),
        ("text_width", model.text_width, text_width),
    ):
        if configured != found:
            raise ConfigError(f"model.{key}={configured}, but the latent cache {store.folder} has {found}; set {found}")
    num_tokens(model, latent_THW)
