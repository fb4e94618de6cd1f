"""What a diffusion world model's run reads: whitened latents of videos and of images, each with its noise."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosmos_train.conditions.conditioner import Conditioner, ConditionTensors
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.flops import num_tokens
from cosmos_train.objectives.edm import NoiseDraw, draw_noise
from cosmos_train.parallel.device_copy import DeviceCopier, Sent
from cosmos_train.windows.ahead import Ahead
from cosmos_train.windows.source import WindowSource
from cosmos_train.windows.steering import WindowSteering
from cosmos_train.windows.stream import Kind, WindowBatch, WindowFacts, stack_latents, stack_text


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """A micro-batch, all of one kind."""

    kind: Kind
    x0_BCTHW: Tensor
    """Whitened latents times sigma_data, fp32."""
    text_BSE: Tensor
    """Zeros where the sample's text was dropped."""
    fps_B: list[float]
    padding_B1HW: Tensor
    """1 where a latent cell is padding."""
    draw: NoiseDraw
    conditions: ConditionTensors
    """They steer the samples, those too whose draw drops them."""
    step: int
    """The run counts it from 0."""

    @property
    def tensors(self) -> list[Tensor]:
        """All that there are."""
        return [self.x0_BCTHW, self.text_BSE, self.padding_B1HW, *self.draw.tensors, *self.conditions.tensors]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "WorldBatch":
        """The same batch, on another device: of copies of its tensors, in their order."""
        x0_BCTHW, text_BSE, padding_B1HW, *further = tensors
        num_drawn = len(self.draw.tensors)
        draw, conditions = NoiseDraw.of(further[:num_drawn]), self.conditions.with_tensors(further[num_drawn:])
        return replace(
            self, x0_BCTHW=x0_BCTHW, text_BSE=text_BSE, padding_B1HW=padding_B1HW, draw=draw, conditions=conditions
        )


class WorldBatches:
    """Which latents and which noise each sample of the run has."""

    def __init__(
        self,
        run: WorldDiTRun,
        source: WindowSource,
        device: torch.device,
        conditioner: Conditioner | None = None,
        *,
        num_stages: int = 1,
    ) -> None:
        """Take what windows are made of.

        Args:
            conditioner: of a model that is steered.
            num_stages: of the pipeline, whose first one is so many micro-batches ahead of the last.
        """
        self.run, self.source = run, source
        self._steering = None if conditioner is None else WindowSteering(conditioner)
        self._copier, self._num_ahead = DeviceCopier(device), 2 * num_stages

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Ahead[tuple[WorldBatch, Sent], WorldBatch]:
        """Micro-batches of sample indices, each of one step of the run -> what they are trained on, made ahead."""
        made = map(self.with_noise, self.source.batches(micro_batches))
        sent = ((batch, self._copier.send(batch.tensors)) for batch in made)
        return Ahead(sent, lambda pair: pair[0].with_tensors(pair[1].wait()), self._num_ahead)

    def with_noise(self, batch: WindowBatch) -> WorldBatch:
        """Whitened, and each window with the draw of its number; texts that the draw drops are zeros. On the CPU."""
        run, z_BCTHW = self.run, stack_latents(batch.windows).float()
        shape_CTHW, stream = z_BCTHW.shape[1:], "noise" if batch.kind == "video" else "image noise"
        draw = draw_noise(
            run.objective,
            seed=run.seed,
            indices=batch.numbers,
            shape_CTHW=shape_CTHW,
            stream=stream,
            steering_dropout=run.condition.dropout,
        )
        statistics = self.source.facts[batch.kind].statistics
        assert statistics is not None, "check_fits: these windows are latents"
        text_BSE = stack_text(batch.windows, run.text.max_tokens)
        padding_B1HW = torch.stack([window.padding_1HW for window in batch.windows])
        per_step = run.train.global_batch_size * (1 if batch.kind == "video" else run.images_per_video)
        conditions = ConditionTensors()
        if self._steering is not None:
            conditions = self._steering.tensors(batch, self.source.facts[batch.kind], padding_B1HW)
        return WorldBatch(
            kind=batch.kind,
            x0_BCTHW=statistics.whiten(z_BCTHW) * run.objective.sigma_data,
            text_BSE=text_BSE * (~draw.drop_text_B)[:, None, None],
            fps_B=[window.fps for window in batch.windows],
            padding_B1HW=padding_B1HW,
            draw=draw,
            conditions=conditions,
            step=batch.numbers[0] // per_step,
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
