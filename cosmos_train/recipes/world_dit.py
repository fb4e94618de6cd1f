"""Training a diffusion world model, Text2World or Video2World, on cached latents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_data.latents import LatentStore
from cosmos_data.plan import IndexPlan
from cosmos_tok.config import TextConfig
from cosmos_tok.whitening import load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.common.uncertainty import LearnedUncertainty
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.flops import dit_cost, num_tokens
from cosmos_train.models.dit.model import DiT
from cosmos_train.objectives.edm import NoiseDraw, add_noise, c_noise, draw_noise, edm_loss
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import counted_once
from cosmos_train.parallel.engine import make_layers
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import StagePlan, plan_stages
from cosmos_train.parallel.shard import layout_independent_fill, mark_partial_gradients, torch_dtype

STATISTICS = "latent_statistics.safetensors"
"""Whitening statistics inside a latent cache, as `cosmos-train tokenize` writes them."""


class WorldModel(nn.Module):
    """The network and, on the last pipeline stage, the learned uncertainty: what is trained and saved together."""

    def __init__(self, network: DiT, *, learned_uncertainty: bool, cp: int) -> None:
        """cp: context-parallel ranks, all of which compute the uncertainty and the loss."""
        super().__init__()
        self.net, self.cp = network, cp
        self.uncertainty = LearnedUncertainty() if learned_uncertainty and network.stage.is_last else None

    def forward(self, x_BCTHW: Tensor, c_noise_B: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(F, u) on the last stage, the residual stream on others."""
        output = self.net(x_BCTHW, c_noise_B, *args, **kwargs)
        if not self.net.stage.is_last:
            return output
        if self.uncertainty is None:
            return output, None
        return output, counted_once(self.uncertainty(c_noise_B), self.cp)


def build_world_model(
    config: DiTConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    dtype: torch.dtype,
    seed: int,
    learned_uncertainty: bool = True,
) -> tuple[list[WorldModel], Any]:
    """This rank's pieces of the model with its first weights, and megatron-core's view of it."""
    engine_config = transformer_config(
        parallel, dtype=dtype, num_layers=config.num_blocks, width=config.width, num_heads=config.num_heads
    )
    layers, fill = make_layers(parallel, engine_config, mesh), layout_independent_fill(mesh, seed=seed)

    def build(stage: StagePlan) -> WorldModel:
        with mesh.device:
            network = DiT(config, layers, stage)
            piece = WorldModel(network, learned_uncertainty=learned_uncertainty, cp=mesh.cp.size())
        network.init_weights(fill)
        if piece.uncertainty is not None:
            piece.uncertainty.init_weights(fill)
        mark_partial_gradients(network)
        network.to(dtype)  # the uncertainty stays in fp32
        return piece

    return [build(stage) for stage in plan_stages(config.num_blocks, parallel, mesh)], engine_config


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """A micro-batch on this rank's device."""

    x0_BCTHW: Tensor
    """Whitened latents times sigma_data, fp32."""
    text_BSE: Tensor
    """Zeros where the sample's text was dropped."""
    fps_B: list[float]
    draw: NoiseDraw


class WorldDiTTask:
    """A task of the loop (cosmos_train.train.task.Task)."""

    def __init__(self, run: WorldDiTRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        self.store = LatentStore(run.latents.folder)
        check_fits(run.model, self.store)
        self.windows = self.store.indices("train")
        self.plan = IndexPlan(len(self.windows), self.store.digest, run.seed)
        self.data_digest = self.store.digest
        self.statistics = load_statistics(self.store.folder / STATISTICS)
        _, *latent_THW = self.store.latent_shape
        self.num_tokens = num_tokens(run.model, latent_THW)
        self.step_flops = dit_cost(
            run.model, batch=run.train.global_batch_size, latent_THW=latent_THW, text_tokens=run.text.max_tokens
        ).training
        self.pieces, self.engine_config = build_world_model(
            run.model,
            run.parallel,
            mesh,
            dtype=torch_dtype(run.train.precision),
            seed=run.seed,
            learned_uncertainty=run.objective.learned_uncertainty,
        )

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[WorldBatch]:
        """Latents of the planned windows with their noise."""
        for indices in micro_batches:
            yield self._load(indices)

    def forward_loss(
        self, model: nn.Module, batch: WorldBatch, hidden: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]] | Tensor:
        """The EDM loss; `error` is its part without the learned uncertainty."""
        config, draw = self.run.objective, batch.draw
        noisy = add_noise(batch.x0_BCTHW, draw, config)
        mask = noisy.condition_mask_B1T11.expand(-1, -1, -1, *batch.x0_BCTHW.shape[3:])
        result = model(
            noisy.net_input_BCTHW.to(self.engine_config.params_dtype),
            c_noise(draw.sigma_B),
            batch.text_BSE,
            fps_B=batch.fps_B,
            condition_mask_B1THW=mask if self.run.model.condition_mask else None,
            hidden_LBD=hidden,
        )
        if isinstance(result, Tensor):
            return result
        output_BCTHW, uncertainty_B = result
        loss, error = edm_loss(batch.x0_BCTHW, output_BCTHW, noisy, draw.sigma_B, uncertainty_B, config)
        return loss, {"loss": loss.detach(), "error": error.detach()}

    def finish(self, run_dir: Path) -> None:
        """Nothing: `cosmos-train sample` reads the checkpoint itself."""

    def _load(self, indices: Sequence[int]) -> WorldBatch:
        config, device = self.run.objective, self.mesh.device
        windows = [self.store.window(self.windows[self.plan.item(index)]) for index in indices]
        z_BCTHW = torch.stack([window["z_CTHW"] for window in windows]).to(device, torch.float32)
        draw = draw_noise(config, seed=self.run.seed, indices=indices, shape_CTHW=self.store.latent_shape).to(device)
        text_BSE = torch.stack([pad_text(window["text_SE"], self.run.text.max_tokens) for window in windows]).to(device)
        return WorldBatch(
            x0_BCTHW=self.statistics.whiten(z_BCTHW) * config.sigma_data,
            text_BSE=text_BSE * (~draw.drop_text_B)[:, None, None],
            fps_B=[window["fps"] for window in windows],
            draw=draw,
        )


def text_identity(text: TextConfig) -> str:
    """What a latent cache's text states depend on."""
    return f"{text.encoder} max_tokens={text.max_tokens}"


def pad_text(text_SE: Tensor, max_tokens: int) -> Tensor:
    """Text states followed by zeros, as the model sees every prompt."""
    return F.pad(text_SE, (0, 0, 0, max_tokens - len(text_SE)))


def check_fits(model: DiTConfig, store: LatentStore) -> None:
    """The latent cache must be of the sizes that the model takes. Raises ConfigError."""
    channels, _, height, width = store.latent_shape
    text_width = store.window(0)["text_SE"].shape[1]
    for key, configured, found in (
        ("latent_channels", model.latent_channels, channels),
        ("text_width", model.text_width, text_width),
    ):
        if configured != found:
            raise ConfigError(f"model.{key}={configured}, but the latent cache {store.folder} has {found}; set {found}")
    if height % model.patch_spatial or width % model.patch_spatial:
        raise ConfigError(
            f"latents of {height} x {width} cells can not be cut into patches of model.patch_spatial="
            f"{model.patch_spatial}; tokenize at a height and width whose latents divide"
        )
