"""A trained world model with all that makes videos of it: network, tokenizer, statistics, text encoder."""

from collections.abc import Callable, Sequence
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
from cosmos_train.config.load import find_yaml, load_run
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.generate.digest import weights_digest
from cosmos_train.generate.network import Evaluate, in_turn, on_halves, pipelined
from cosmos_train.generate.world import Scene, sample_scene
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.recipes.world_batches import STATISTICS
from cosmos_train.train import checkpoint

WHOLE = (
    "parallel.tp=1",
    "parallel.pp=1",
    "parallel.pp_chunks=1",
    "parallel.pp_first_blocks=null",
    "parallel.pp_last_blocks=null",
    "parallel.cp=1",
    "parallel.sequence_parallel=false",
    "parallel.recompute=none",
    "parallel.precision={recipe: none, amax_history_len: 1024, amax_compute: max}",
)
"""A layout of one process, whatever layout trained the model; overrides stand over it."""


@dataclass(frozen=True, slots=True)
class TrainedWorld:
    """What one rank needs to sample; tokenizer and text encoder are whole on every rank."""

    run: WorldDiTRun
    checkpoint_folder: Path
    step: int
    averaged: bool
    """The moving average of the weights, where the run kept one."""
    weights_digest: str
    """Names the weights that are sampled, whatever checkpoint and layout they come from."""
    mesh: Mesh
    evaluate: Evaluate
    tokenizer: CausalVideoTokenizer
    tokenizer_config: TokenizerConfig
    statistics: LatentStatistics
    store: LatentStore
    text: TextEncoder

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.mesh.device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in: of its text states."""
        return torch_dtype(self.run.train.precision)

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

    def sample(self, scene: Scene, on_step: Callable[[int], None] = lambda _step: None) -> Tensor:
        """Latents of the scene's videos, by the run's `sample` section; on_step gets the number of finished steps."""
        return sample_scene(
            self.evaluate,
            scene,
            self.run.sample,
            sigma_data=self.run.objective.sigma_data,
            has_condition_mask=self.run.model.condition_mask,
            on_step=on_step,
        )


def open_run(path: Path, overrides: Sequence[str]) -> tuple[Path, WorldDiTRun]:
    """(checkpoint folder, its run with overrides of sampling and layout): all that can be checked before loading.

    Raises:
        CheckpointError, ConfigError: there is no checkpoint, it is no world model's, or an override is of another part.
    """
    folder = checkpoint.resolve(path)
    for override in overrides:
        if not override.startswith(("sample.", "parallel.", "sample=")):
            raise ConfigError(f"override {override!r}: only sample.key=value and parallel.key=value can be set here")
    overrides = [key_value for override in overrides for key_value in _from_file(override)]
    run_yaml = str(folder / "run.yaml")
    stored = load_run(run_yaml)
    if not isinstance(stored, WorldDiTRun):
        raise ConfigError(f"{folder} is of a {stored.recipe} run; only world models can be sampled")
    run = load_run(run_yaml, [*WHOLE, *overrides])
    assert isinstance(run, WorldDiTRun)
    return folder, run


def _from_file(override: str) -> list[str]:
    """sample=NAME is all that the file has, such as configs/sample/released_2ab.yaml of sample=sample/released_2ab."""
    if not override.startswith("sample="):
        return [override]
    values = OmegaConf.to_container(OmegaConf.load(find_yaml(override.removeprefix("sample="))))
    if not isinstance(values, dict):
        raise ConfigError(f"override {override!r}: the file is not a mapping of the keys of `sample` to values")
    return [f"sample.{key}={value}" for key, value in values.items()]


def load_world(folder: Path, run: WorldDiTRun) -> TrainedWorld:
    """Load what `open_run` found, in the layout of run.parallel.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: something is missing or does not belong together.
    """
    mesh = init.start(run.parallel, seed=run.seed)
    store = LatentStore(run.latents.folder)
    tokenizer_folder = Path(run.latents.tokenizer)
    store.require(tokenizer_digest=tokenizer_digest(tokenizer_folder))
    tokenizer, tokenizer_config = load_tokenizer(tokenizer_folder)
    pieces, engine_config = build_world_model(
        run.model,
        run.parallel,
        mesh,
        dtype=torch_dtype(run.train.precision),
        seed=run.seed,
        learned_uncertainty=run.objective.learned_uncertainty,
    )
    averaged = checkpoint.has_average(folder)
    checkpoint.load_weights(folder, pieces, mesh, averaged=averaged)
    networks = [piece.net.eval() for piece in pieces]
    evaluate = in_turn(networks[0]) if mesh.pp.size() == 1 else pipelined(networks, engine_config, mesh)
    return TrainedWorld(
        run=run,
        checkpoint_folder=folder,
        step=checkpoint.read_progress(folder).step,
        averaged=averaged,
        weights_digest=weights_digest(networks, mesh),
        mesh=mesh,
        evaluate=on_halves(evaluate, mesh) if run.sample.cfg_parallel else evaluate,
        tokenizer=tokenizer.eval().to(mesh.device),
        tokenizer_config=tokenizer_config,
        statistics=load_statistics(store.folder / STATISTICS),
        store=store,
        text=load_text_encoder(run, mesh.device),
    )


def frames_for(world: TrainedWorld, num_latent_frames: int) -> int:
    """Pixel frames behind the first latent frames. Raises DataError beyond what the model was trained on."""
    trained = world.store.latent_shape[1]
    if num_latent_frames > trained:
        raise DataError(f"{num_latent_frames} latent frames were asked for, the model was trained on {trained}")
    return world.tokenizer_config.pixel_frames(num_latent_frames)
