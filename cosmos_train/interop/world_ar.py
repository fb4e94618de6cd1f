"""An autoregressive world model out of any file or folder, to be called from Python: logits, videos. In one process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.codes import CodeScene
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder
from cosmos_train.generate.medusa import generate
from cosmos_train.interop.load import load_world
from cosmos_train.interop.source import open_world
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig


def read_ar_world_model(
    path: Path | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    weights: str = "network",
    dtype: torch.dtype = torch.float32,
) -> "ARWorld":
    """The autoregressive world model in a file or folder of any layout (see `source`); nothing is written.

    What it does to the process is what `world.read_world_model` does.

    Args:
        arguments: of the official constructor, for what an official file's tensors do not tell: the positions.
        weights: network or ema, for what holds both.
        dtype: number format of the network.

    Raises:
        ConfigError, TokenizerError: there is none, or it is damaged.
    """
    source = open_world(path, arguments, weights=weights)
    config, parallel = source.require_ar(), ParallelConfig()
    mesh = init.start(parallel, seed=0)
    [model], engine_config = build_world_ar(config, parallel, mesh, dtype=dtype, seed=0)
    load_world(source, [model], mesh)
    model.eval().requires_grad_(False)
    return ARWorld(model, Decoder([model], engine_config, mesh), tuple(source.notes))


@dataclass(frozen=True)
class ARWorld:
    """A loaded model. Codes are of a discrete tokenizer, [B, T, H, W]; text are T5 states, [B, S, E]."""

    network: WorldAR
    decoder: Decoder
    notes: tuple[str, ...] = ()
    """What the file did not tell, and what was taken instead."""

    @property
    def config(self) -> WorldARConfig:
        """The architecture."""
        return self.network.config

    def __call__(self, ids_BL: Tensor, grid_HW: tuple[int, int], text_BSE: Tensor | None = None) -> Tensor:
        """Logits [B, L, V]: after each token, of the code that follows it, whether there are Medusa heads or not.

        Args:
            ids_BL: codes with time outermost; first the begin token, id V, where the model has one.
            grid_HW: rows and columns of codes in a latent frame.
            text_BSE: zeros past the prompt's end; exactly where the model attends to text.
        """
        lowest, highest = (int(value) for value in ids_BL.aminmax())
        if lowest < 0 or highest > self.config.vocab_size - 1 + self.config.begin_token:
            begin = ", the last one the begin token" if self.config.begin_token else ""
            raise ConfigError(
                f"token ids run from {lowest} to {highest}, but this model knows 0 to "
                f"{self.config.vocab_size - 1 + self.config.begin_token}{begin}; use the tokenizer it was trained on"
            )
        result = self.network(ids_BL, grid_HW, text_BSE=text_BSE)
        assert isinstance(result, tuple), "the whole network gives logits"
        logits = result[0].transpose(0, 1)
        return logits[:, :, 0] if self.config.medusa_heads else logits

    def generate(
        self,
        grid_THW: tuple[int, int, int],
        config: CodeSampleConfig,
        *,
        given_BTHW: Tensor | None = None,
        text_BSE: Tensor | None = None,
        seeds: Sequence[int] = (0,),
    ) -> Tensor:
        """Codes [B, T, H, W], one video for each seed; temperature 0 of the config is greedy.

        Args:
            given_BTHW: its first config.num_condition_frames are the conditions; none only with a begin token.
        """
        scene = CodeScene(grid_THW=grid_THW, seed_B=seeds, given_BTHW=given_BTHW, text_BSE=text_BSE)
        return generate(self.decoder, scene, config, device=self.decoder.mesh.device)
