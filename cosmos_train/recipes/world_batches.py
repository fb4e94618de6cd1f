"""What a diffusion world model's run reads: whitened latents of videos and of images, each with its noise."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.flops import num_tokens
from cosmos_train.objectives.edm import NoiseDraw, draw_noise
from cosmos_train.windows.ahead import make_ahead
from cosmos_train.windows.source import WindowSource
from cosmos_train.windows.window import Kind, WindowBatch, WindowFacts, stack_latents, stack_text


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

    def __init__(self, run: WorldDiTRun, source: WindowSource, device: torch.device) -> None:
        self.run, self.source, self.device = run, source, device
        for facts in source.facts.values():
            check_fits(run.model, facts)
        check_condition_frames(run, source.facts["video"])

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[WorldBatch]:
        """Micro-batches of sample indices, each of one step of the run -> what they are trained on, made ahead."""
        return make_ahead(self.with_noise(batch) for batch in self.source.batches(micro_batches))

    def with_noise(self, batch: WindowBatch) -> WorldBatch:
        """Whitened, and each window with the draw of its number; texts that the draw drops are zeros."""
        run, device = self.run, self.device
        z_BCTHW = stack_latents(batch.windows).to(device, torch.float32)
        shape_CTHW, stream = z_BCTHW.shape[1:], "noise" if batch.kind == "video" else "image noise"
        draw = draw_noise(run.objective, seed=run.seed, indices=batch.numbers, shape_CTHW=shape_CTHW, stream=stream)
        draw = draw.to(device)
        statistics = self.source.facts[batch.kind].statistics
        assert statistics is not None, "check_fits: these windows are latents"
        text_BSE = stack_text(batch.windows, run.text.max_tokens).to(device)
        return WorldBatch(
            kind=batch.kind,
            x0_BCTHW=statistics.whiten(z_BCTHW) * run.objective.sigma_data,
            text_BSE=text_BSE * (~draw.drop_text_B)[:, None, None],
            fps_B=[window.fps for window in batch.windows],
            padding_B1HW=torch.stack([window.padding_1HW for window in batch.windows]).to(device),
            draw=draw,
        )


def check_condition_frames(run: WorldDiTRun, videos: WindowFacts) -> None:
    """Raises ConfigError where nothing would be left to predict."""
    if run.objective.max_condition_frames >= max(videos.num_frames, 2):
        raise ConfigError(
            f"objective.max_condition_frames={run.objective.max_condition_frames}, but the windows of {videos.where} "
            f"have {videos.num_frames} latent frames and one must be left to predict; use at most "
            f"{videos.num_frames - 1}"
        )


def check_fits(model: DiTConfig, facts: WindowFacts) -> None:
    """The windows must be of the sizes that the model takes. Raises ConfigError."""
    for channels, *latent_THW in facts.shapes:
        if facts.num_codes is not None:
            raise ConfigError(
                f"{facts.where} gives codes, and a diffusion model (model.latent_channels={model.latent_channels}) "
                "reads latents of a continuous tokenizer; use one"
            )
        if channels != model.latent_channels:
            raise ConfigError(
                f"model.latent_channels={model.latent_channels}, but {facts.where} has {channels}; set {channels}"
            )
        num_tokens(model, latent_THW)
    if facts.text_width not in (None, model.text_width):
        raise ConfigError(
            f"model.text_width={model.text_width}, but {facts.where} has {facts.text_width}; set {facts.text_width}"
        )
