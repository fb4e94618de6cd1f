"""Sizes of the autoregressive world model (arXiv 2501.03575, table 14, and the released models). No torch in here."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, NotNegative, Positive, check_ranges

GATE_GROUP = 16
"""Gate and value columns of the MLP alternate in groups of so many, so that tensor parallelism can divide them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldARConfig:
    """A decoder-only transformer over the codes of a discrete video tokenizer. Defaults are the released models'."""

    num_blocks: Count
    """Transformer blocks: 16 (4B, 5B) or 40 (12B, 13B)."""
    width: Count
    """D of the residual stream: 4096 or 5120. Needs not be num_heads * head_dim."""
    num_heads: Count = 32
    """Query heads."""
    num_kv_heads: Count = 8
    """Key/value heads, each shared by num_heads / num_kv_heads query heads."""
    head_dim: Count = 128
    """Width of a head. A third of it (rounded to even) encodes rows, a third columns, the rest time."""
    ffn_width: Count = 14336
    """Hidden width of the SwiGLU MLP, a multiple of 16."""
    ffn_padding: CountOrZero = 0
    """So many of the last hidden units are zero and stay so: of an official file whose width is no multiple of 16."""
    vocab_size: Count = 64000
    """Codes of the tokenizer."""
    begin_token: bool = False
    """Start every sequence with a token of its own, id vocab_size, whose position is 0 everywhere: 5B and 13B."""
    cross_attention: bool = False
    """Attend to text states in every block: 5B and 13B."""
    text_width: Count = 1024
    """Width of the text states: 1024 for T5-11B."""
    action_width: CountOrZero = 0
    """Dimensions of the action that takes the text's place in cross-attention and leads to the next frame: 7 for
    Bridge, of the 5B model's post-training; 0: cross-attention reads text."""
    absolute_positions: bool = False
    """Add the sinusoid of (t, y, x) to the residual stream before every block: 5B and 13B; the paper: all models."""
    rope_theta: Positive = 500_000.0
    """Base of the rotary frequencies."""
    yarn_scale: Annotated[float, Ge(1)] = 1.0
    """Slow down low rotary frequencies by this (YaRN, arXiv 2309.00071): 2 (12B, 13B); 1 changes nothing."""
    yarn_original_THW: tuple[Count, Count, Count] = (3, 40, 64)
    """Latent grid of the training before YaRN; rows and columns both use its height, as the released code does."""
    yarn_spatial: bool = True
    """Slow down rows and columns too, as the released code does; the paper: time only."""
    yarn_beta_fast: Positive = 4.0
    """Frequencies that turn at least so often over the original length stay as they are."""
    yarn_beta_slow: Positive = 1.0
    """Frequencies that turn at most so often are slowed down whole."""
    norm_eps: NotNegative = 1e-5
    """Of every RMSNorm."""
    medusa_heads: CountOrZero = 0
    """Heads that guess the codes after the next one, so that generation takes fewer passes; 9 in the paper."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"model.num_kv_heads={self.num_kv_heads} must divide model.num_heads={self.num_heads}, so that every "
                "key/value head serves as many query heads"
            )
        if self.head_dim % 2 or self.head_dim < 12:
            raise ConfigError(
                f"model.head_dim={self.head_dim} cannot be split over time, rows and columns; "
                "use an even number of at least 12"
            )
        if self.ffn_width % GATE_GROUP:
            raise ConfigError(f"model.ffn_width={self.ffn_width} is not a multiple of {GATE_GROUP}")
        if self.ffn_padding >= GATE_GROUP:
            raise ConfigError(
                f"model.ffn_padding={self.ffn_padding} only fills model.ffn_width up to a multiple of {GATE_GROUP}; "
                f"use at most {GATE_GROUP - 1}"
            )

        if self.action_width and not self.cross_attention:
            raise ConfigError(
                f"model.action_width={self.action_width}: cross-attention reads the actions, and "
                "model.cross_attention=false has none; set it to true"
            )

    @property
    def reads_text(self) -> bool:
        """Return whether cross-attention reads text, and not actions."""
        return self.cross_attention and not self.action_width

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding table: with the begin token the next multiple of 64, as released."""
        return math.ceil((self.vocab_size + 1) / 64) * 64 if self.begin_token else self.vocab_size
