"""Sizes of the diffusion transformer (arXiv 2501.03575, table 11, and the released models). No torch in here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """The Cosmos DiT. Width D = num_heads * head_dim."""

    num_blocks: int
    """Transformer blocks: self-attention, cross-attention and MLP each. 28 (7B) or 36 (14B)."""
    num_heads: int
    """Attention heads; there are as many key/value heads. 32 (7B) or 40 (14B)."""
    head_dim: int = 128
    """Width of a head. A third of it (rounded to even) encodes rows, a third columns, the rest time."""
    mlp_ratio: int = 4
    """Hidden width of the MLP as a multiple of D."""
    adaln_rank: int = 256
    """Rank of the AdaLN-LoRA modulation of each sub-layer; 0: a whole matrix each, and none that all share."""
    timestep_norm: bool = True
    """Normalise the timestep embedding (RMSNorm) before the modulations read it."""
    latent_channels: int = 16
    """Channels of the tokenizer's latents."""
    text_width: int = 1024
    """Width of the text states that cross-attention reads: 1024 for T5-11B, 384 for the demo's encoder."""
    condition_mask: bool = False
    """Add the channel that marks conditioning frames: false for Text2World, true for Video2World."""
    extra_channels: int = 0
    """Further conditioning channels, as post-training adds them: 6 for the Pluecker coordinates of a camera path."""
    padding_mask: bool = True
    """Add the channel that marks padded cells, as all released models do."""
    patch_spatial: int = 2
    """Side of a square patch, in latent cells. Time is never patched."""
    position_tables: bool = True
    """Add the learnable position embedding before every block, as all released single-view models do."""
    max_latent_frames: int = 128
    """Rows of the learnable temporal position table; longer latents are refused."""
    max_latent_size: int = 240
    """Largest latent height or width. The learnable tables hold max_latent_size / patch_spatial rows."""
    max_latent_width: int | None = None
    """Largest latent width, where it is not max_latent_size too."""
    rope_scale_t: float = 2.0
    """NTK extrapolation ratio of the temporal rotary axis: 2 in the released models."""
    rope_scale_h: float = 1.0
    """NTK extrapolation ratio of the rows' rotary axis: 1 (7B) or 2 (14B)."""
    rope_scale_w: float = 1.0
    """NTK extrapolation ratio of the columns' rotary axis: 1 (7B) or 2 (14B)."""
    base_fps: float = 24.0
    """Frame rate at which a latent frame is one rotary position apart from the next."""

    def __post_init__(self) -> None:
        for key, value in (
            ("num_blocks", self.num_blocks),
            ("num_heads", self.num_heads),
            ("mlp_ratio", self.mlp_ratio),
            ("latent_channels", self.latent_channels),
            ("text_width", self.text_width),
        ):
            if value < 1:
                raise ValueError(f"model.{key}={value} must be at least 1")
        for key, value in (("adaln_rank", self.adaln_rank), ("extra_channels", self.extra_channels)):
            if value < 0:
                raise ValueError(f"model.{key}={value} must be 0 (none) or more")
        if self.head_dim % 2 or self.head_dim < 12:
            raise ValueError(
                f"model.head_dim={self.head_dim} cannot be split over time, rows and columns; "
                "use an even number of at least 12"
            )
        for key, size in (("max_latent_size", self.max_latent_size), ("max_latent_width", self.max_latent_width)):
            if size is not None and size % self.patch_spatial:
                raise ValueError(f"model.{key}={size} is not a multiple of model.patch_spatial={self.patch_spatial}")

    @property
    def width(self) -> int:
        """D, the width of the residual stream."""
        return self.num_heads * self.head_dim

    @property
    def in_channels(self) -> int:
        """Channels before patching: latents, then what there is of condition mask, extra channels, padding mask."""
        return self.latent_channels + int(self.condition_mask) + self.extra_channels + int(self.padding_mask)

    @property
    def table_rows(self) -> tuple[int, int, int]:
        """Rows of the learnable position tables of time, rows and columns."""
        width = self.max_latent_width or self.max_latent_size
        return self.max_latent_frames, self.max_latent_size // self.patch_spatial, width // self.patch_spatial
