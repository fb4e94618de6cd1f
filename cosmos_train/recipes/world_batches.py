"""What a diffusion world model's run reads: whitened latents of videos and of images, each with its noise."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_data.latents import LatentStore
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.whitening import LatentStatistics, load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.flops import num_tokens
from cosmos_train.objectives.edm import NoiseDraw, draw_noise
from cosmos_train.recipes.ahead import make_ahead
from cosmos_train.recipes.filled_windows import FilledWindows, latent_shape
from cosmos_train.recipes.joint_windows import JointWindows, Kind, Picked, stack_latents, stack_text
from cosmos_train.recipes.kept_statistics import STATISTICS, keep_statistics, statistics_digest, training_statistics


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """A micro-batch, all of one kind, on this rank's device."""

    kind: Kind
    x0_BCTHW: Tensor
    """Whitened latents times sigma_data, fp32."""
    text_BSE: Tensor
    """Zeros where the sample's text was dropped."""
    fps_B: list[float]
    padding_B1HW: Tensor
    """1 where a latent cell is padding."""
    draw: NoiseDraw


class WorldBatches:
    """Which latents and which noise each sample of the run has."""

    def __init__(self, run: WorldDiTRun, windows: JointWindows | FilledWindows, device: torch.device) -> None:
        self.run, self.windows, self.device = run, windows, device
        self.digest = windows.digest
        """Names what sample indices point into."""
        self.statistics: dict[Kind, LatentStatistics] = {}
        if isinstance(windows, FilledWindows):
            check_codec(run, windows.codec)
            self.statistics["video"] = training_statistics(run)
            scale = statistics_digest(self.statistics["video"])
            self.digest = hashlib.sha256(f"{windows.digest}/{scale}".encode()).hexdigest()
        else:
            for kind, store in windows.stores.items():
                check_fits(run.model, store)
                self.statistics[kind] = load_statistics(store.folder / STATISTICS)
        check_condition_frames(run, windows.latent_shapes[0][1])

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[WorldBatch]:
        """Micro-batches of sample indices, each of one step of the run -> what they are trained on."""
        made = (self.with_noise(picked) for picked in self.windows.picks(micro_batches))
        if isinstance(self.windows, JointWindows):
            return make_ahead(made)
        if self.windows.mesh.is_main:
            keep_statistics(self.run, self.statistics["video"])
        return made  # windows come from another rank, by what ranks do in one order; they were made ahead before that

    def with_noise(self, picked: Picked) -> WorldBatch:
        """Whitened, and each window with the draw of its number; texts that the draw drops are zeros."""
        run, device = self.run, self.device
        z_BCTHW = stack_latents(picked.windows, device).to(torch.float32)
        shape_CTHW, stream = z_BCTHW.shape[1:], "noise" if picked.kind == "video" else "image noise"
        draw = draw_noise(run.objective, seed=run.seed, indices=picked.numbers, shape_CTHW=shape_CTHW, stream=stream)
        draw = draw.to(device)
        text_BSE = stack_text(picked.windows, run.text.max_tokens, device)
        return WorldBatch(
            kind=picked.kind,
            x0_BCTHW=self.statistics[picked.kind].whiten(z_BCTHW) * run.objective.sigma_data,
            text_BSE=text_BSE * (~draw.drop_text_B)[:, None, None],
            fps_B=[window.fps for window in picked.windows],
            padding_B1HW=torch.stack([window.padding_1HW for window in picked.windows]).to(device),
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


def check_codec(run: WorldDiTRun, codec: TokenizerConfig) -> None:
    """The tokenizer must make latents that the model takes. Raises ConfigError."""
    if codec.kind != "continuous" or codec.latent_channels != run.model.latent_channels:
        raise ConfigError(
            f"model.latent_channels={run.model.latent_channels}, but latents.tokenizer={run.latents.tokenizer} is "
            f"{codec.kind} and has {codec.latent_channels}; use a continuous tokenizer, and its number"
        )
    _, *latent_THW = latent_shape(run.data, codec)
    num_tokens(run.model, latent_THW)


def check_fits(model: DiTConfig, store: LatentStore) -> None:
    """The latent cache must be of the sizes that the model takes. Raises ConfigError."""
    channels, *latent_THW = store.latent_shape
    text_width = store.window(0).text_SE.shape[1]
    for key, configured, found in (
        ("latent_channels", model.latent_channels, channels),
        ("text_width", model.text_width, text_width),
    ):
        if configured != found:
            raise ConfigError(f"model.{key}={configured}, but the latent cache {store.folder} has {found}; set {found}")
    num_tokens(model, latent_THW)
