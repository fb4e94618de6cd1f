"""A trained autoregressive world model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosmos_tok.model import shown, to_unit_range
from cosmos_train.config.schema import WorldARRun
from cosmos_train.generate.codes import CodeScene
from cosmos_train.generate.decoder import Decoder
from cosmos_train.generate.medusa import generate
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.parallel import init
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.recipes.world_ar import check_codec
from cosmos_train.text.cache import load_text_encoder
from cosmos_train.windows.kept import trained_with
from cosmos_train.worlds.trained import OnStep, TrainedWorld, load_codec, load_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeWorld(TrainedWorld):
    """Latents are the tokenizer's codes, int64 [B, T, H, W]."""

    run: WorldARRun
    decoder: Decoder

    @property
    def num_parallel(self) -> int:
        """Every data-parallel rank has videos of its own."""
        return 1

    @torch.inference_mode()
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """uint8 pixels -> codes."""
        return self.tokenizer.indices(self.tokenizer.encode(to_unit_range(pixels_B3THW.to(self.device))))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Codes -> uint8 pixels [B, 3, T, H, W]."""
        return shown(
            self.tokenizer.decode(self.tokenizer.codes(latents)), f"a sample of {self.checkpoint_folder}"
        ).cpu()

    def read_prompts(self, named: dict[str, str]) -> Tensor | None:
        """States of the prompts, [P, S, E], where the model reads any."""
        return None if self.text is None else self.encode_text(named)

    def num_steps(self, num_latent_frames: int) -> int:
        """Codes of the window, given ones counted."""
        _, _, height, width = self.latent_shape
        return num_latent_frames * height * width

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
        """See TrainedWorld. These models know nothing of fps."""
        _, _, height, width = self.latent_shape
        grid_THW = (num_latent_frames, height, width)
        scene = CodeScene(grid_THW=grid_THW, seed_B=seeds, given_BTHW=given, text_BSE=text)
        return generate(self.decoder, scene, self.run.sample, device=self.device, on_code=on_step)


def load_ar(folder: Path, run: WorldARRun) -> CodeWorld:
    """Load what `open_run` found, in the layout of run.parallel.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: something is missing or does not belong together.
    """
    mesh = init.start(run.parallel, seed=run.seed)
    origin, _ = trained_with(folder, run)
    codec = load_codec(run, origin, mesh.device)
    check_codec(run, codec["tokenizer_config"])
    pieces, engine_config = build_world_ar(
        run.model, run.parallel, mesh, dtype=torch_dtype(run.train.precision), seed=run.seed
    )
    weights = load_weights(folder, pieces, pieces, mesh, verify=run.checkpoint.verify)
    return CodeWorld(
        run=run,
        mesh=mesh,
        decoder=Decoder([piece.eval() for piece in pieces], engine_config, mesh),
        text=load_text_encoder(run.text, mesh.device) if run.model.cross_attention else None,
        **codec,
        **weights,
    )
