"""An autoregressive world model that can be called: logits, codes and videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosmos_tok.model import shown, to_unit_range
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.codes import CodeScene
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder
from cosmos_train.generate.medusa import generate
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.vocabulary import whole_vocabulary
from cosmos_train.worlds.world import OnStep, Prompts, WindowRequest, World, require_undivided


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoregressiveWorld(World):
    """Latents are the codes of a discrete tokenizer, int64 [B, T, H, W]; text are encoder states, [B, S, E].

    All but the logits works on every layout; they want the network whole, without a pipeline.
    """

    decoder: Decoder
    sampling: CodeSampleConfig

    @classmethod
    def build(
        cls,
        config: WorldARConfig,
        parallel: ParallelConfig,
        mesh: Mesh,
        *,
        path: Path,
        dtype: torch.dtype,
        seed: int,
        sampling: CodeSampleConfig,
    ) -> "AutoregressiveWorld":
        """Build the network with its first weights, and nothing around it."""
        pieces, engine_config = build_world_ar(config, parallel, mesh, dtype=dtype, seed=seed)
        decoder = Decoder([piece.eval() for piece in pieces], engine_config, mesh)
        return cls(path=path, mesh=mesh, dtype=dtype, decoder=decoder, sampling=sampling)

    @property
    def config(self) -> WorldARConfig:
        """Return the architecture."""
        return self.decoder.config

    @property
    def pieces(self) -> list[WorldAR]:
        """Return this rank's piece of the network."""
        return [self.decoder.piece]

    @property
    def networks(self) -> list[WorldAR]:
        """Return the pieces, since nothing else is trained beside the network."""
        return self.pieces

    @property
    def network(self) -> WorldAR:
        """Return the network. Raises ConfigError where a pipeline divides it."""
        require_undivided(self.pieces, self.mesh)
        return self.decoder.piece

    @property
    def num_parallel(self) -> int:
        """Return how many data-parallel ranks work on the same videos: one, since every rank has videos of its own."""
        return 1

    def __call__(self, ids_BL: Tensor, grid_HW: tuple[int, int], text_BSE: Tensor | None = None) -> Tensor:
        """Return logits [B, L, V]: after each token, of the code that follows it, with or without Medusa heads.

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
        logits = whole_vocabulary(result[0], self.mesh.tp).transpose(0, 1)
        return logits[:, :, 0] if self.config.medusa_heads else logits

    def sample_latents(
        self,
        grid_THW: tuple[int, int, int],
        *,
        config: CodeSampleConfig | None = None,
        given_BTHW: Tensor | None = None,
        text_BSE: Tensor | None = None,
        seeds: Sequence[int] = (0,),
        on_step: OnStep = lambda _step: None,
    ) -> Tensor:
        """Sample codes [B, T, H, W], one video for each seed.

        Args:
            config: how codes are chosen, greedily with temperature=0; `sampling` by default.
            given_BTHW: its first config.num_condition_frames are the conditions; none only with a begin token.
            text_BSE: what cross-attention reads: states of text, or the action [B, 1, A] of a model that reads one.
        """
        scene = CodeScene(grid_THW=grid_THW, seed_B=seeds, given_BTHW=given_BTHW, text_BSE=text_BSE)
        return generate(self.decoder, scene, config or self.sampling, device=self.device, on_code=on_step)

    @torch.inference_mode()
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """Return codes of uint8 pixels."""
        tokenizer = self.require_codec().tokenizer
        return tokenizer.indices(tokenizer.encode(to_unit_range(pixels_B3THW.to(self.device))))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 pixels [B, 3, T, H, W] of codes, on the CPU."""
        tokenizer = self.require_codec().tokenizer
        return shown(tokenizer.decode(tokenizer.codes(latents)), f"a sample of {self.path}").cpu()

    def read_prompts(self, named: dict[str, str]) -> Prompts | None:
        """Return the states of texts, where the model reads any."""
        return Prompts(text_PSE=self.encode_text(named)) if self.config.reads_text else None

    def num_steps(self, num_latent_frames: int) -> int:
        """Return the codes of the window, given ones counted."""
        _, _, height, width = self.require_windows().latent_shape
        return num_latent_frames * height * width

    def sample_window(self, request: WindowRequest, on_step: OnStep = lambda _step: None) -> Tensor:
        """Return the codes of a window for each seed. These models know nothing of fps."""
        _, _, height, width = self.require_windows().latent_shape
        return self.sample_latents(
            (request.num_latent_frames, height, width),
            given_BTHW=request.given,
            text_BSE=self.read_by_cross_attention(request),
            seeds=request.seeds,
            on_step=on_step,
        )

    def read_by_cross_attention(self, request: WindowRequest) -> Tensor | None:
        """Return the states of the prompts, or the action [B, 1, A] that leads to the frame after a window's first."""
        if self.conditioner is None:
            return None if request.prompts is None else request.prompts.text_PSE
        found = self.steering(request)
        assert found.action_BTRA is not None, "an autoregressive model reads actions and nothing else"
        return found.action_BTRA[:, 0]
