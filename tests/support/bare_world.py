"""A world without a network, on a tokenizer of four pixel frames a latent frame: a test says what its latents are."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.worlds.codec import Codec
from cosmos_train.worlds.world import Prompts, WindowRequest, World

RATE, LATENT_FRAMES, FPS = 4, 3, 10.0
FRAMES = 1 + RATE * (LATENT_FRAMES - 1)
"""Pixel frames of a window."""
SIZES: dict[str, Any] = {"num_blocks": 1, "num_heads": 1, "head_dim": 12, "latent_channels": 4, "text_width": 8}

UNSTEERED = DiTConfig(**SIZES)
"""It reads no condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BareWorld(World):
    """A model that notes what it is asked for; a subclass encodes, decodes and samples."""

    model: DiTConfig = UNSTEERED
    """It says what steers the world."""
    requests: list[WindowRequest] = field(default_factory=list)

    @property
    def config(self) -> DiTConfig:
        return self.model

    @property
    def networks(self) -> list[nn.Module]:
        return []

    @property
    def num_parallel(self) -> int:
        return 1

    def read_prompts(self, named: dict[str, str]) -> Prompts | None:
        return None

    def num_steps(self, num_latent_frames: int) -> int:
        return num_latent_frames

    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


def make_codec() -> Codec:
    """A tokenizer of random weights, for its rate; what it makes is not whitened."""
    torch.manual_seed(0)
    config = TokenizerConfig(channels=4, temporal_rate=RATE, z_channels=4, latent_channels=4)
    ones = torch.ones(4, LATENT_FRAMES)
    statistics = LatentStatistics(mean_CT=0 * ones, std_CT=ones)
    return Codec(tokenizer=CausalVideoTokenizer(config).eval(), digest="", statistics=statistics)
