"""A trained diffusion world model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosmos_tok.model import shown, to_unit_range
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.generate.network import Evaluate, in_turn, on_halves, pipelined
from cosmos_train.generate.world import Scene, sample_scene
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.text.cache import load_text_encoder
from cosmos_train.windows.kept import trained_with
from cosmos_train.worlds.trained import OnStep, TrainedWorld, load_codec, load_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionWorld(TrainedWorld):
    """Latents are whitened and scaled to sigma_data, [B, C, T, H, W]."""

    run: WorldDiTRun
    evaluate: Evaluate
    statistics: LatentStatistics

    @property
    def num_parallel(self) -> int:
        """Two where they share the branches of guidance."""
        return 2 if self.run.sample.cfg_parallel else 1

    @torch.inference_mode()
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """uint8 pixels -> whitened latents times sigma_data."""
        z_BCTHW = self.tokenizer.encode(to_unit_range(pixels_B3THW.to(self.device)))
        return self.statistics.whiten(z_BCTHW.float()) * self.run.objective.sigma_data

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Whitened latents times sigma_data -> uint8 pixels [B, 3, T, H, W]."""
        z_BCTHW = self.statistics.unwhiten(latents / self.run.objective.sigma_data)
        return shown(self.tokenizer.decode(z_BCTHW), f"a sample of {self.checkpoint_folder}").cpu()

    def read_prompts(self, named: dict[str, str]) -> Tensor:
        """States of the prompts, and last of the negative prompt, [P + 1, S, E]."""
        negative = self.run.sample.negative_prompt
        states_PSE = self.encode_text({**named, "negative prompt": negative})
        if not negative:
            states_PSE[-1] = 0  # what training puts in the place of dropped text
        return states_PSE

    def num_steps(self, num_latent_frames: int) -> int:
        """Updates of the sample, however long it is."""
        return self.run.sample.num_updates

    def sample_window(
        self,
        text: Tensor | None,
        seeds: Sequence[int],
        given: Tensor | None,
        *,
        num_latent_frames: int,
        fps_B: Sequence[float],
        on_step: OnStep,
    ) -> Tensor:
        """See TrainedWorld."""
        assert text is not None
        channels, _, height, width = self.latent_shape
        scene = Scene(
            text_BSE=text[:-1],
            negative_text_BSE=text[-1:],
            fps_B=fps_B,
            shape_CTHW=(channels, num_latent_frames, height, width),
            seed_B=seeds,
            given_BCTHW=given,
        )
        return sample_scene(
            self.evaluate,
            scene,
            self.run.sample,
            sigma_data=self.run.objective.sigma_data,
            has_condition_mask=self.run.model.condition_mask,
            on_step=on_step,
        )


def load_dit(folder: Path, run: WorldDiTRun) -> DiffusionWorld:
    """Load what `open_run` found, in the layout of run.parallel.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: something is missing or does not belong together.
    """
    mesh = init.start(run.parallel, seed=run.seed)
    origin, statistics = trained_with(folder, run)
    if statistics is None:
        raise ConfigError(f"{run.run_dir} has no whitening statistics of its videos; start that run once more")
    codec = load_codec(run, origin, mesh.device)
    pieces, engine_config = build_world_model(
        run.model,
        run.parallel,
        mesh,
        dtype=torch_dtype(run.train.precision),
        seed=run.seed,
        learned_uncertainty=run.objective.learned_uncertainty,
    )
    networks = [piece.net.eval() for piece in pieces]
    weights = load_weights(folder, pieces, networks, mesh, verify=run.checkpoint.verify)
    evaluate = in_turn(networks[0]) if mesh.pp.size() == 1 else pipelined(networks, engine_config, mesh)
    return DiffusionWorld(
        run=run,
        mesh=mesh,
        evaluate=on_halves(evaluate, mesh) if run.sample.cfg_parallel else evaluate,
        statistics=statistics,
        text=load_text_encoder(run.text, mesh.device),
        **codec,
        **weights,
    )
