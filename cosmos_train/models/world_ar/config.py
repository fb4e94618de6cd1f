"""Sizes of the autoregressive world model (arXiv 2501.03575, table 14, and the released models). No torch in here."""

import math
from dataclasses import dataclass

GATE_GROUP = 16
"""Gate and value columns of the MLP alternate in groups of so many, so that tensor parallelism can divide them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldARConfig:
    """A decoder-only transformer over the codes of a discrete video tokenizer. Defaults are the released models'."""

    num_blocks: int
    """Transformer blocks: 16 (4B, 5B) or 40 (12B, 13B)."""
    width: int
    """D of the residual stream: 4096 or 5120. Needs not be num_heads * head_dim."""
    num_heads: int = 32
    """Query heads."""
    num_kv_heads: int = 8
    """Key/value heads, each shared by num_heads / num_kv_heads query heads."""
    head_dim: int = 128
    """Width of a head. A third of it (rounded to even) encodes rows, a third columns, the rest time."""
    ffn_width: int = 14336
    """Hidden width of the SwiGLU MLP."""
    vocab_size: int = 64000
    """Codes of the tokenizer."""
    begin_token: bool = False
    """Start every sequence with a token of its own, id vocab_size, whose position is 0 everywhere: 5B and 13B."""
    cross_attention: bool = False
    """Attend to text states in every block: 5B and 13B."""
    text_width: int = 1024
    """Width of the text states: 1024 for T5-11B."""
    absolute_positions: bool = False
    """Add the sinusoid of (t, y, x) to the residual stream before every block: 5B and 13B; the paper: all models."""
    rope_theta: float = 500_000.0
    """Base of the rotary frequencies."""
    yarn_scale: float = 1.0
    """Slow down low rotary frequencies by this (YaRN, arXiv 2309.00071): 2 (12B, 13B); 1 changes nothing."""
    yarn_original_THW: tuple[int, int, int] = (3, 40, 64)
    """Latent grid of the training before YaRN; rows and columns both use its height, as the released code does."""
    yarn_spatial: bool = True
    """Slow down rows and columns too, as the released code does; the paper: time only."""
    yarn_beta_fast: float = 4.0
    """Frequencies that turn at least so often over the original length stay as they are."""
    yarn_beta_slow: float = 1.0
    """Frequencies that turn at most so often are slowed down whole."""
    norm_eps: float = 1e-5
    """Of every RMSNorm."""
    medusa_heads: int = 0
    """Heads that guess the codes after the next one, so that generation takes fewer passes; 9 in the paper."""

    def __post_init__(self) -> None:
        for key, value in (
            ("num_blocks", self.num_blocks),
            ("width", self.width),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("ffn_width", self.ffn_width),
            ("vocab_size", self.vocab_size),
            ("text_width", self.text_width),
        ):
            if value < 1:
                raise ValueError(f"model.{key}={value} must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads={self.num_kv_heads} must divide model.num_heads={self.num_heads}, so that every "
                "key/value head serves as many query heads"
            )
        if self.head_dim % 2 or self.head_dim < 12:
            raise ValueError(
                f"model.head_dim={self.head_dim} cannot be split over time, rows and columns; "
                "use an even number of at least 12"
            )
        if self.ffn_width % GATE_GROUP:
            raise ValueError(f"model.ffn_width={self.ffn_width} is not a multiple of {GATE_GROUP}")
        if self.medusa_heads < 0:
            raise ValueError(f"model.medusa_heads={self.medusa_heads} must be 0 (none) or more")
        if self.yarn_scale < 1:
            raise ValueError(f"model.yarn_scale={self.yarn_scale} must be 1 (off) or more")

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding table: with the begin token the next multiple of 64, as released."""
        return math.ceil((self.vocab_size + 1) / 64) * 64 if self.begin_token else self.vocab_size
