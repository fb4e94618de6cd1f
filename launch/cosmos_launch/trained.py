"""A trained world model with all that makes videos of it: network, tokenizer, statistics, text encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from cosmos_data.errors import DataError
from cosmos_data.latents import LatentStore
from cosmos_launch.encode import load_text_encoder
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer, to_uint8, to_unit_range
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.text import TextEncoder
from cosmos_tok.whitening import LatentStatistics, load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.generate.config import SampleConfig
from cosmos_train.models.dit.model import DiT
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.recipes.world_dit import STATISTICS, build_world_model
from cosmos_train.train import checkpoint


@dataclass(frozen=True, slots=True)
class TrainedWorld:
    """Everything on one device, in one process."""

    run: WorldDiTRun
    checkpoint_folder: Path
    step: int
    averaged: bool
    """The moving average of the weights, where the run kept one."""
    network: DiT
    tokenizer: CausalVideoTokenizer
    tokenizer_config: TokenizerConfig
    statistics: LatentStatistics
    store: LatentStore
    text: TextEncoder
    device: torch.device

    @torch.inference_mode()
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """uint8 pixels -> whitened latents times sigma_data."""
        z_BCTHW = self.tokenizer.encode(to_unit_range(pixels_B3THW.to(self.device)))
        return self.statistics.whiten(z_BCTHW.float()) * self.run.objective.sigma_data

    @torch.inference_mode()
    def decode(self, x_BCTHW: Tensor) -> Tensor:
        """Whitened latents times sigma_data -> uint8 pixels [B, 3, T, H, W]."""
        z_BCTHW = self.statistics.unwhiten(x_BCTHW / self.run.objective.sigma_data)
        return to_uint8(self.tokenizer.decode(z_BCTHW)).cpu()


def load_world(path: Path) -> TrainedWorld:
    """Load a run's newest checkpoint, or the one that is named.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: something is missing or does not belong together.
    """
    folder = checkpoint.resolve(path)
    run = load_run(str(folder / "run.yaml"))
    if not isinstance(run, WorldDiTRun):
        raise ConfigError(f"{folder} is of a {run.recipe} run; only world models can be sampled")
    parallel = ParallelConfig(layers=run.parallel.layers)  # whole on one device, whatever layout trained it
    mesh = init.start(parallel, seed=run.seed)
    store = LatentStore(run.latents.folder)
    tokenizer_folder = Path(run.latents.tokenizer)
    store.require(tokenizer_digest=tokenizer_digest(tokenizer_folder))
    tokenizer, tokenizer_config = load_tokenizer(tokenizer_folder)
    [model], _ = build_world_model(
        run.model,
        parallel,
        mesh,
        dtype=torch_dtype(run.train.precision),
        seed=run.seed,
        learned_uncertainty=run.objective.learned_uncertainty,
    )
    averaged = checkpoint.has_average(folder)
    checkpoint.load_weights(folder, [model], mesh, averaged=averaged)
    return TrainedWorld(
        run=run,
        checkpoint_folder=folder,
        step=checkpoint.read_progress(folder).step,
        averaged=averaged,
        network=model.net.eval(),
        tokenizer=tokenizer.eval().to(mesh.device),
        tokenizer_config=tokenizer_config,
        statistics=load_statistics(store.folder / STATISTICS),
        store=store,
        text=load_text_encoder(run, mesh.device),
        device=mesh.device,
    )


def sample_config(run: WorldDiTRun, overrides: Sequence[str]) -> SampleConfig:
    """The run's `sample` section with overrides of the form sample.key=value."""
    wrong = [override for override in overrides if not override.startswith("sample.") or "=" not in override]
    if wrong:
        raise ConfigError(f"override {wrong[0]!r}: only sample.key=value can be set when sampling")
    changes = OmegaConf.from_dotlist(list(overrides)).get("sample", {})
    merged = OmegaConf.merge(OmegaConf.structured(run.sample), changes)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, SampleConfig)
    return config


def frames_for(world: TrainedWorld, num_latent_frames: int) -> int:
    """Pixel frames behind the first latent frames. Raises DataError beyond what the model was trained on."""
    trained = world.store.latent_shape[1]
    if num_latent_frames > trained:
        raise DataError(f"{num_latent_frames} latent frames were asked for, the model was trained on {trained}")
    return world.tokenizer_config.pixel_frames(num_latent_frames)
