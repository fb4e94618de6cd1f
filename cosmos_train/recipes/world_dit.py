"""Training a diffusion world model, Text2World or Video2World, on cached latents."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_train.conditions.conditioner import ConditionTensors, reads_of
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.interop.load import warm_start
from cosmos_train.interop.load_base import load_base
from cosmos_train.models.common.flops import Cost
from cosmos_train.models.dit.flops import dit_cost, num_tokens
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.objectives.edm import NoisyInput, add_noise, by_noise_level, c_noise, edm_loss
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.parallel.step_metrics import Metrics, Ratio
from cosmos_train.train.telling.text_file import write_whole
from cosmos_train.windows.ahead import Ahead
from cosmos_train.windows.source import open_source
from cosmos_train.windows.steering import conditioner_of, find_embodiments, texts_of
from cosmos_train.windows.stream import KINDS, Kind, Shape, WindowFacts
from cosmos_train.windows.work import mean_cost, mean_tokens
from cosmos_train.windows.world_batches import WorldBatch, WorldBatches, check_condition_frames, check_fits


class WorldDiTTask:
    """A task of the loop (cosmos_train.train.task.Task)."""

    def __init__(self, run: WorldDiTRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        self.embodiments = find_embodiments(run, mesh)
        self.source = open_source(run, mesh, self._check_fits)
        videos = self.source.facts["video"]
        check_condition_frames(run, videos)
        self.data_digest = self.source.digest
        conditioner = conditioner_of(run, self.embodiments, videos) if reads_of(run.model).names else None
        self._batches = WorldBatches(run, self.source, mesh.device, conditioner, num_stages=mesh.pp.size())
        shapes = self.source.shapes
        self.num_tokens = mean_tokens(shapes["video"], lambda shape_CTHW: num_tokens(run.model, shape_CTHW[1:]))
        self.step_flops = step_cost(run, shapes).training
        self.pieces, self.engine_config = build_world_model(
            run.model,
            run.parallel,
            mesh,
            dtype=torch_dtype(run.train.precision),
            seed=run.seed,
            learned_uncertainty=run.objective.learned_uncertainty,
            lora=run.lora,
        )
        self.checkpoint_texts = texts_of(self.embodiments) | load_base(run, self.pieces, mesh)

    def begin(self, run_dir: Path) -> None:
        """Keep where the windows come from, and what their actions are normalised with."""
        self.source.keep(run_dir)
        for name, text in self.checkpoint_texts.items():
            write_whole(run_dir / name, text)

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Ahead[Any, WorldBatch]:
        """Latents of the planned windows and images with their noise."""
        return self._batches.batches(micro_batches)

    def forward_loss(
        self, model: nn.Module, batch: WorldBatch, hidden: Tensor | None
    ) -> tuple[Tensor, Metrics] | Tensor:
        """The EDM loss; `error` is its part without the learned uncertainty, also by kind and by noise level."""
        config, draw = self.run.objective, batch.draw
        noisy = add_noise(batch.x0_BCTHW, draw, config)
        network = self._network(model, batch, noisy, hidden)
        worth = self._worth_of_conditions(network, batch, noisy)
        result = network(batch.conditions.zeros(draw.drop_steering_B))
        if isinstance(result, Tensor):
            return result
        output_BCTHW, uncertainty_B = result
        loss, error, error_B = edm_loss(
            batch.x0_BCTHW, output_BCTHW, noisy, draw.sigma_B, uncertainty_B, config, padding_B1HW=batch.padding_B1HW
        )
        return loss, {"loss": loss.detach(), "error": error.detach()} | _details(error_B.detach(), batch) | worth

    def _network(
        self, model: nn.Module, batch: WorldBatch, noisy: NoisyInput, hidden: Tensor | None
    ) -> Callable[[ConditionTensors], Any]:
        """Return what the model says of a batch, steered by some conditions."""
        mask = noisy.condition_mask_B1T11.expand(-1, -1, -1, *batch.x0_BCTHW.shape[3:])
        net_input_BCTHW = noisy.net_input_BCTHW.to(self.engine_config.params_dtype)
        return lambda conditions: model(
            net_input_BCTHW,
            c_noise(batch.draw.sigma_B),
            batch.text_BSE,
            fps_B=batch.fps_B,
            condition_mask_B1THW=mask if self.run.model.condition_mask else None,
            padding_mask_B1HW=batch.padding_B1HW,
            **conditions.named,
            hidden_LBD=hidden,
        )

    @torch.no_grad()
    def _worth_of_conditions(
        self, network: Callable[[ConditionTensors], Any], batch: WorldBatch, noisy: NoisyInput
    ) -> dict[str, Ratio[Tensor]]:
        """Return the error under the same noise with the right conditions, with another sample's and with zeros.

        Nothing is counted in steps that are not probed, and nothing of another sample where the batch has none.
        """
        every = self.run.condition.probe_every_steps
        if not every:
            return {}
        is_probed, right = batch.kind == "video" and batch.step % every == 0, batch.conditions
        ways = {"right": right, "shuffled": right.rolled() if len(batch.x0_BCTHW) > 1 else None, "zero": right.zeros()}
        zero, found = batch.draw.sigma_B.new_zeros(()), dict[str, Ratio[Tensor]]()
        for name, conditions in ways.items():
            found[f"condition/{name}"] = Ratio(zero, zero)
            if is_probed and conditions is not None:
                output_BCTHW, _ = network(conditions)
                _, error, _ = edm_loss(
                    batch.x0_BCTHW,
                    output_BCTHW,
                    noisy,
                    batch.draw.sigma_B,
                    None,
                    self.run.objective,
                    padding_B1HW=batch.padding_B1HW,
                )
                found[f"condition/{name}"] = Ratio(error, zero + 1)
        return found

    def _check_fits(self, facts: WindowFacts) -> None:
        """Raise ConfigError where windows are not what the model reads."""
        check_fits(self.run.model, facts)
        if facts.num_frames > 1:
            conditioner_of(self.run, self.embodiments, facts)

    def warm_start(self, source: Path) -> None:
        """Start from the weights of a world model in any layout."""
        warm_start(source, self.pieces, self.mesh, self.run.checkpoint, self.run.lr_factors)

    def finish(self, run_dir: Path) -> None:
        """Nothing: `cosmos-train sample` reads the checkpoint itself."""


def _details(error_B: Tensor, batch: WorldBatch) -> dict[str, Ratio[Tensor]]:
    """The errors of images, of videos and of each range of sigma, as the means over those that a step has of them."""
    found: dict[str, Ratio[Tensor]] = {}
    one, zero = torch.ones_like(error_B[0]), torch.zeros_like(error_B[0])
    for kind in KINDS:
        is_kind = one if batch.kind == kind else zero
        found[f"error_of/{kind}"] = Ratio(is_kind * error_B.mean(), is_kind)
    for sigmas, (total, count) in by_noise_level(error_B, batch.draw.sigma_B).items():
        found[f"error_by_sigma/{sigmas}"] = Ratio(total, count)
    return found


def step_cost(
    run: WorldDiTRun,
    shapes: Mapping[Kind, Mapping[Shape, Fraction]],
    *,
    part: Callable[..., Cost] = dit_cost,
) -> Cost:
    """The work of the model, or of a part of it, in an optimizer step: the mean over kinds and shapes of windows.

    shapes: of each kind that there is [C, T, H, W] and its share.
    """
    batch_of = {"video": run.train.global_batch_size, "image": run.train.global_batch_size * run.images_per_video}

    def cost(kind: Kind, shape_CTHW: Shape) -> Cost:
        return part(run.model, batch=batch_of[kind], latent_THW=shape_CTHW[1:], text_tokens=run.text.max_tokens)

    return mean_cost(run, shapes, cost)
