"""Sizes of the diffusion transformer (arXiv 2501.03575, table 11, and the released models). No torch in here."""

from dataclasses import dataclass
from typing import Literal

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, Positive, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """The Cosmos DiT. Width D = num_heads * head_dim."""

    num_blocks: Count
    """Transformer blocks: self-attention, cross-attention and MLP each. 28 (7B) or 36 (14B)."""
    num_heads: Count
    """Attention heads; there are as many key/value heads. 32 (7B) or 40 (14B)."""
    head_dim: Count = 128
    """Width of a head. A third of it (rounded to even) encodes rows, a third columns, the rest time."""
    mlp_ratio: Count = 4
    """Hidden width of the MLP as a multiple of D."""
    adaln_rank: CountOrZero = 256
    """Rank of the AdaLN-LoRA modulation of each sub-layer; 0: a whole matrix each, and none that all share."""
    timestep_norm: bool = True
    """Normalise the timestep embedding (RMSNorm) before the modulations read it."""
    latent_channels: Count = 16
    """Channels of the tokenizer's latents."""
    text_width: Count = 1024
    """Width of the text states that cross-attention reads: 1024 for T5-11B, 384 for the demo's encoder."""
    condition_mask: bool = False
    """Add the channel that marks conditioning frames: false for Text2World, true for Video2World."""
    extra_channels: CountOrZero = 0
    """Further conditioning channels, as post-training adds them: 6 for the Pluecker coordinates of a camera path."""
    action_frames: Literal["none", "next", "each"] = "none"
    """Which latent frames have actions of their own. next: one action for the whole window, which leads to the next
    frame, as in the released network; each: every latent frame has those that bring about its pixel frames."""
    action_width: CountOrZero = 0
    """Numbers that the network reads of a latent frame's actions, steps times dimensions: 8 x 7 for action_frames=each
    at 8 frames a latent frame, 7 for action_frames=next. Narrower actions are filled up with zeros."""
    action_into: Literal["both", "modulation"] = "both"
    """Where actions enter. both: into the timestep embedding E and the shared modulation A; modulation: into A alone,
    as cosmos-predict1's code does. The network for E is then kept, as files have it, and not trained."""
    num_embodiments: CountOrZero = 0
    """Rows of the table that tells the network whose actions they are; 0: no table, for one robot."""
    padding_mask: bool = True
    """Add the channel that marks padded cells, as all released models do."""
    patch_spatial: Count = 2
    """Side of a square patch, in latent cells. Time is never patched."""
    position_tables: bool = True
    """Add the learnable position embedding before every block, as all released single-view models do."""
    max_latent_frames: Count = 128
    """Rows of the learnable temporal position table; longer latents are refused."""
    max_latent_size: Count = 240
    """Largest latent height or width. The learnable tables hold max_latent_size / patch_spatial rows."""
    max_latent_width: Count | None = None
    """Largest latent width, where it is not max_latent_size too."""
    rope_scale_t: Positive = 2.0
    """NTK extrapolation ratio of the temporal rotary axis: 2 in the released models."""
    rope_scale_h: Positive = 1.0
    """NTK extrapolation ratio of the rows' rotary axis: 1 (7B) or 2 (14B)."""
    rope_scale_w: Positive = 1.0
    """NTK extrapolation ratio of the columns' rotary axis: 1 (7B) or 2 (14B)."""
    base_fps: Positive = 24.0
    """Frame rate at which a latent frame is one rotary position apart from the next."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        if self.head_dim % 2 or self.head_dim < 12:
            raise ConfigError(
                f"model.head_dim={self.head_dim} cannot be split over time, rows and columns; "
                "use an even number of at least 12"
            )
        for key, size in (("max_latent_size", self.max_latent_size), ("max_latent_width", self.max_latent_width)):
            if size is not None and size % self.patch_spatial:
                raise ConfigError(f"model.{key}={size} is not a multiple of model.patch_spatial={self.patch_spatial}")

        if (self.action_frames == "none") != (self.action_width == 0):
            raise ConfigError(
                f"model.action_frames={self.action_frames} and model.action_width={self.action_width} do not belong "
                "together; set both for a network that reads actions, or neither"
            )
        if self.num_embodiments and not self.action_width:
            raise ConfigError(
                f"model.num_embodiments={self.num_embodiments} tells whose actions they are, and model.action_width=0: "
                "the network reads none; set it to 0"
            )
        if self.action_width and self.action_into == "modulation" and not self.adaln_rank:
            raise ConfigError(
                "model.action_into=modulation leads actions into what all sub-layers share, which a network with "
                "model.adaln_rank=0 does not have; use action_into=both"
            )

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
