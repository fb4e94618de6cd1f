"""The Cosmos diffusion transformer (arXiv 2501.03575, section 5.1.1), read top to bottom: parts, block, model.

What differs from a textbook DiT, all as in the released models:
  - no biases anywhere; per-head RMSNorm on queries and keys; rotary positions over (t, y, x), time in seconds
  - a learnable position embedding, normalised, is added to the residual stream before every block
  - AdaLN-LoRA: each sub-layer modulates with W_up W_down silu(E) + A; A is one [3D] vector shared by all sub-layers.
    With adaln_rank=0, which no released model has, it is W_up silu(E), and E comes out of the timestep MLP
  - the patch order going in is not the one coming out (models/common/patchify.py)
  - queries, keys and values of a head lie together in one matrix, [N, 3, K, D], so that a tensor-parallel rank's part
    is contiguous; the converters split it into the released three

Letters: B batch, C latent channels, T latent frames, H W latent rows and columns, L tokens = T * H/p * W/p, D width,
N heads, K head width, S text tokens, E text width. They mean logical sizes: a rank may hold N / tp heads or some of L.
The model receives its layers (cosmos_train.parallel.layers) and knows neither ranks nor megatron-core.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Required, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.common.patchify import patchify, unpatchify
from cosmos_train.models.common.rope3d import apply_rope, rope_angles
from cosmos_train.models.dit.actions import ActionEmbedding, check_actions
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.parallel.context import TokenSplit
from cosmos_train.parallel.layers import Layers, RMSNorm
from cosmos_train.parallel.lora import note_joined
from cosmos_train.parallel.pipeline import StagePlan
from cosmos_train.parallel.shard import Fill, Init

NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What every block is told besides the residual stream."""

    embedding_FBD: Tensor
    """silu of the normalised timestep embedding E; F is 1, or T where each latent frame has actions of its own."""
    modulation_FB3D: Tensor | None
    """A: the part of shift, scale and gate that all sub-layers share; none without AdaLN-LoRA."""
    frame_L: Tensor | None
    """The latent frame of each token of this rank's residual stream, where F is T."""
    position_L1D: Tensor | None
    """Normalised learnable position embedding, where the model has one."""
    rope_cos: Tensor
    rope_sin: Tensor
    """[L, 1 or B, 1, K / 2], for the tokens of this rank's queries."""
    text_SBE: Tensor
    text_mask_BS: Tensor | None
    """1 at the text states that cross-attention sees; none: at all of them."""
    split: TokenSplit
    """How the ranks divide the tokens; only self-attention asks."""


class TimestepEmbedding(nn.Module):
    """c_noise -> (E, A): a sinusoid of width D, normalised (E) and through a bias-free MLP D -> D -> 3D (A).

    Without AdaLN-LoRA there is no A, and E is the sinusoid through an MLP D -> D -> D with biases, normalised.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, self.has_lora = config.width, config.adaln_rank > 0
        self.hidden = nn.Linear(width, width, bias=not self.has_lora)
        self.out = nn.Linear(width, 3 * width if self.has_lora else width, bias=not self.has_lora)
        self.norm = RMSNorm(width, eps=NORM_EPS) if config.timestep_norm else nn.Identity()

    def forward(self, c_noise_B: Tensor, action_FBD: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[B] -> E [F, B, D], A [1, B, 3D] or none. action_FBD: what actions add to E before it is normalised."""
        half = self.hidden.in_features // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=c_noise_B.device) / half)
        angle = c_noise_B.float()[None, :, None] * frequency
        sinusoid = torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.hidden.weight.dtype)
        output = self.out(F.silu(self.hidden(sinusoid)))
        embedding = sinusoid if self.has_lora else output
        if action_FBD is not None:
            embedding = embedding + action_FBD
        return self.norm(embedding), output if self.has_lora else None


class PositionEmbedding(nn.Module):
    """Three learnable tables, summed over (t, y, x) and brought to unit root mean square."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.t, self.h, self.w = (nn.Parameter(torch.empty(rows, config.width)) for rows in config.table_rows)

    def forward(self, grid_THW: tuple[int, int, int]) -> Tensor:
        """[L, 1, D] for a grid of patches. Raises ValueError where the grid is larger than a table."""
        for axis, size, table in zip("THW", grid_THW, (self.t, self.h, self.w), strict=True):
            if size > len(table):
                raise ConfigError(
                    f"{size} positions along {axis}, but the learnable table holds {len(table)}; "
                    "use a shorter or smaller video, or raise model.max_latent_frames or model.max_latent_size"
                )
        t, h, w = grid_THW
        position = self.t[:t, None, None] + self.h[None, :h, None] + self.w[None, None, :w]
        # In fp32 also where the tables are bf16, as the official network does.
        norm = torch.linalg.vector_norm(position, dim=-1, keepdim=True, dtype=torch.float32)
        rms = norm / math.sqrt(position.shape[-1]) + 1e-6
        return (position / rms.to(position.dtype)).flatten(0, 2).unsqueeze(1)


class Modulation(nn.Module):
    """AdaLN-LoRA of one sub-layer: D -> rank -> num_chunks * D, plus A, shared; rank 0: one whole matrix."""

    def __init__(self, config: DiTConfig, *, num_chunks: int) -> None:
        super().__init__()
        width, rank = config.width, config.adaln_rank
        self.down = nn.Linear(width, rank, bias=False) if rank else nn.Identity()
        self.up = nn.Linear(rank or width, num_chunks * width, bias=False)

    def forward(self, cond: Conditioning) -> tuple[Tensor, ...]:
        """num_chunks tensors [1 or L, B, D]: shift, scale (as 1 + scale) and, of three, gate."""
        own = self.up(self.down(cond.embedding_FBD))
        if cond.modulation_FB3D is not None:
            own = own + cond.modulation_FB3D[..., : own.shape[-1]]
        if cond.frame_L is not None:
            own = own[cond.frame_L]
        chunks = own.chunk(own.shape[-1] // cond.embedding_FBD.shape[-1], -1)
        return chunks[0], 1 + chunks[1], *chunks[2:]


def modulated_norm(x_LBD: Tensor, shift_LBD: Tensor, one_plus_scale_LBD: Tensor) -> Tensor:
    """LayerNorm without weights, then scale and shift, which may be the same of all tokens: [1, B, D]."""
    return torch.addcmul(shift_LBD, F.layer_norm(x_LBD, x_LBD.shape[-1:], eps=NORM_EPS), one_plus_scale_LBD)


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens."""

    def __init__(self, config: DiTConfig, layers: Layers) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads // layers.tp, config.head_dim
        qkv = layers.column_linear(config.width, 3 * config.width)
        self.qkv = note_joined(qkv, 3 * [config.head_dim])  # rows: [N, 3, K]
        self.q_layernorm = layers.head_norm(config.head_dim)
        self.k_layernorm = layers.head_norm(config.head_dim)
        self.attention = layers.attention()
        self.out = layers.row_linear(config.width, config.width)

    def forward(self, x_LBD: Tensor, cond: Conditioning) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        q, k, v = self.qkv(x_LBD).unflatten(-1, (self.num_heads, 3, self.head_dim)).unbind(-2)  # [L, B, N, K] each
        q = apply_rope(self.q_layernorm(q), cond.rope_cos, cond.rope_sin)
        k = apply_rope(self.k_layernorm(k), cond.rope_cos, cond.rope_sin)
        return self.out(self.attention(q, k, v, cond.split))


class CrossAttention(nn.Module):
    """Attention of all tokens to the text states; text positions past the prompt's end are zero states, unmasked.

    So it is in the released models. A mask of the states is for networks of other training.
    """

    def __init__(self, config: DiTConfig, layers: Layers) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads // layers.tp, config.head_dim
        self.q = layers.column_linear(config.width, config.width)
        kv = layers.shared_linear(config.text_width, 2 * config.width)
        self.kv = note_joined(kv, 2 * [config.head_dim])  # rows: [N, 2, K]
        self.q_layernorm = layers.head_norm(config.head_dim)
        self.k_layernorm = layers.head_norm(config.head_dim)
        self.attention = layers.attention()
        self.out = layers.row_linear(config.width, config.width)

    def forward(self, x_LBD: Tensor, cond: Conditioning) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        q = self.q(x_LBD).unflatten(-1, (self.num_heads, self.head_dim))
        k, v = self.kv(cond.text_SBE).unflatten(-1, (self.num_heads, 2, self.head_dim)).unbind(-2)
        k, v = (of_text.expand(-1, q.shape[1], -1, -1) for of_text in (self.k_layernorm(k), v))
        return self.out(self.attention(self.q_layernorm(q), k, v, key_mask_BS=cond.text_mask_BS))


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, config: DiTConfig, layers: Layers, stage: StagePlan) -> None:
        super().__init__()
        self.stage = stage
        self.up = layers.column_linear(config.width, config.mlp_ratio * config.width)
        self.down = layers.row_linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x_LBD: Tensor, cond: Conditioning) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        return self.stage.through(F.gelu, self.down, self.up(x_LBD))


class Block(nn.Module):
    """Self-attention, cross-attention, MLP: each modulated before and gated after."""

    def __init__(self, config: DiTConfig, layers: Layers, stage: StagePlan) -> None:
        super().__init__()
        self.stage = stage
        self.self_attention = SelfAttention(config, layers)
        self.self_modulation = Modulation(config, num_chunks=3)
        self.cross_attention = CrossAttention(config, layers)
        self.cross_modulation = Modulation(config, num_chunks=3)
        self.mlp = MLP(config, layers, stage)
        self.mlp_modulation = Modulation(config, num_chunks=3)

    def forward(self, x_LBD: Tensor, cond: Conditioning) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        if cond.position_L1D is not None:
            x_LBD = x_LBD + cond.position_L1D
        for layer, modulation in (
            (self.self_attention, self.self_modulation),
            (self.cross_attention, self.cross_modulation),
            (self.mlp, self.mlp_modulation),
        ):
            shift, one_plus_scale, gate = modulation(cond)
            branch = functools.partial(layer, cond=cond)
            x_LBD = torch.addcmul(x_LBD, gate, self.stage.through(modulated_norm, branch, x_LBD, shift, one_plus_scale))
        return x_LBD


class FinalLayer(nn.Module):
    """Modulated norm, then D -> patch * patch * C."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.modulation = Modulation(config, num_chunks=2)
        self.linear = nn.Linear(config.width, config.patch_spatial**2 * config.latent_channels, bias=False)

    def forward(self, x_LBD: Tensor, cond: Conditioning) -> Tensor:
        """[L, B, D] -> [L, B, patch * patch * C]."""
        return self.linear(modulated_norm(x_LBD, *self.modulation(cond)))


class DiTConditions(TypedDict, total=False):
    """`DiT.forward` is told these by name besides the hidden states; its docstring says what each is."""

    fps_B: Required[Sequence[float]]
    condition_mask_B1THW: Tensor | None
    padding_mask_B1HW: Tensor | None
    extra_BCTHW: Tensor | None
    text_mask_BS: Tensor | None
    action_BTRA: Tensor | None
    embodiment_B: Tensor | None


class DiT(nn.Module):
    """F(x; c_noise): the raw network of the EDM denoiser, or one pipeline stage of it."""

    def __init__(self, config: DiTConfig, layers: Layers, stage: StagePlan) -> None:
        super().__init__()
        self.config, self.layers, self.stage = config, layers, stage
        if stage.is_first:
            self.embed = nn.Linear(config.in_channels * config.patch_spatial**2, config.width, bias=False)
        # Every stage has its own copy of what conditions all blocks; their gradients are summed over the stages.
        self.timestep = stage.shared("timestep", lambda: TimestepEmbedding(config))
        self.position = stage.shared("position", lambda: PositionEmbedding(config)) if config.position_tables else None
        self.action = stage.shared("action", lambda: ActionEmbedding(config)) if config.action_width else None
        # Named by their number in the whole model, so that a parameter's name does not depend on the pipeline.
        self.blocks = nn.ModuleDict({str(i): Block(config, layers, stage) for i in stage.blocks})
        if stage.is_last:
            self.final = FinalLayer(config)
        layers.finish(self)

    def forward(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BSE: Tensor,
        *,
        fps_B: Sequence[float],
        condition_mask_B1THW: Tensor | None = None,
        padding_mask_B1HW: Tensor | None = None,
        extra_BCTHW: Tensor | None = None,
        text_mask_BS: Tensor | None = None,
        action_BTRA: Tensor | None = None,
        embodiment_B: Tensor | None = None,
        hidden_LBD: Tensor | None = None,
    ) -> Tensor:
        """The network's output F, [B, C, T, H, W], on the last stage; the residual stream [L, B, D] on others.

        Args:
            x_BCTHW: noisy latents, already scaled by c_in. Every stage takes its grid from them.
            c_noise_B: ln(sigma) / 4, fp32; [1] broadcasts.
            text_BSE: encoder states, zeros past the prompt's end; [1, S, E] broadcasts, and is projected once.
            fps_B: frames per second of each sample's pixels.
            condition_mask_B1THW: 1 at conditioning frames; required exactly where the model has this channel.
            padding_mask_B1HW: 1 where there is padding, none means nowhere; of pixels too, of which the nearest are
                taken, as released. [1, 1, H, W] broadcasts.
            extra_BCTHW: the further conditioning channels of a model that has any; frames past T are left out.
            text_mask_BS: 1 at the text states that are seen, at least one of each sample; none, as released: all of
                them. [1, S] broadcasts.
            action_BTRA: R steps with A dimensions of each latent frame, R A = config.action_width, of a model that is
                steered by actions; T is 1 where config.action_frames is next.
            embodiment_B: whose they are, rows of the table of a model that has one.
            hidden_LBD: the previous stage's output, on all stages but the first.
        """
        self._check_input(x_BCTHW, condition_mask_B1THW, extra_BCTHW)
        check_actions(self.config, x_BCTHW.shape[2], action_BTRA, embodiment_B)
        if text_mask_BS is not None and text_mask_BS.shape[1:] != text_BSE.shape[1:2]:
            raise ConfigError(
                f"a text mask of shape {list(text_mask_BS.shape)} was given for {text_BSE.shape[1]} text states; "
                f"give [1 or {len(x_BCTHW)}, {text_BSE.shape[1]}]"
            )
        _, _, frames, height, width = x_BCTHW.shape
        grid = (frames, height // self.config.patch_spatial, width // self.config.patch_spatial)
        actions = (None, None) if self.action is None else self.action(action_BTRA, embodiment_B)
        cond = self._conditioning(grid, c_noise_B, text_BSE, text_mask_BS, fps_B, actions)
        if self.stage.is_first:
            channels = self._add_channels(x_BCTHW, condition_mask_B1THW, extra_BCTHW, padding_mask_B1HW)
            tokens = cond.split.enter(patchify(channels, self.config.patch_spatial))
            x_LBD = self.embed(tokens)
        else:
            assert hidden_LBD is not None, "a stage that is not the first needs the previous stage's output"
            x_LBD = hidden_LBD
        with self.layers.autocast(x_LBD):
            for block in self.blocks.values():
                x_LBD = self.stage.run_block(block, x_LBD, cond, self.layers.checkpoint)
        if not self.stage.is_last:
            return x_LBD
        patches = cond.split.leave(self.final(x_LBD, cond))
        return unpatchify(patches, self.config.patch_spatial, grid)

    def init_weights(self, fill: Fill) -> None:
        """Xavier-uniform matrices; normal(0.02) timestep MLP; truncated normal(0.02) positions; no modulation yet.

        As released: the blocks' modulation starts at zero, the final layer's does not.
        """
        for name, param in self.named_parameters():
            if name.endswith(("norm.weight", "layernorm.weight")):
                fill(name, param, _ones)
            elif name.endswith((".bias", "embodiment.weight")):
                fill(name, param, _zeros)
            elif name.startswith("position."):
                fill(name, param, _truncated_normal)
            elif name.startswith("timestep."):
                fill(name, param, _normal)
            elif name.startswith("blocks.") and name.endswith("modulation.up.weight"):
                fill(name, param, _zeros)
            else:
                num_matrices = 3 if name.endswith("qkv.weight") else 2 if name.endswith("kv.weight") else 1
                fill(name, param, _xavier_uniform(num_matrices))

    def _conditioning(
        self,
        grid: tuple[int, int, int],
        c_noise_B: Tensor,
        text_BSE: Tensor,
        text_mask_BS: Tensor | None,
        fps_B: Sequence[float],
        actions: tuple[Tensor | None, Tensor | None],
    ) -> Conditioning:
        """actions: what they add to E [F, B, D] and to A [F, B, 3D]."""
        config, split = self.config, self.layers.split(math.prod(grid))
        embedding_FBD, modulation_FB3D = self.timestep(c_noise_B, actions[0])
        if actions[1] is not None:
            modulation_FB3D = modulation_FB3D + actions[1]
        frame_L = torch.arange(grid[0], device=text_BSE.device).repeat_interleave(grid[1] * grid[2])
        angles = rope_angles(
            *grid,
            head_dim=config.head_dim,
            scales_thw=(config.rope_scale_t, config.rope_scale_h, config.rope_scale_w),
            fps_B=fps_B,
            base_fps=config.base_fps,
            device=text_BSE.device,
        )
        dtype = embedding_FBD.dtype
        return Conditioning(
            embedding_FBD=F.silu(embedding_FBD),
            modulation_FB3D=modulation_FB3D,
            frame_L=split.enter(frame_L) if config.action_frames == "each" else None,
            position_L1D=None if self.position is None else split.enter(self.position(grid)).to(dtype),
            rope_cos=split.context_rows(angles.cos()).to(dtype),
            rope_sin=split.context_rows(angles.sin()).to(dtype),
            text_SBE=text_BSE.transpose(0, 1).to(dtype),
            text_mask_BS=text_mask_BS,
            split=split,
        )

    def _add_channels(
        self,
        x_BCTHW: Tensor,
        condition_mask_B1THW: Tensor | None,
        extra_BCTHW: Tensor | None,
        padding_mask_B1HW: Tensor | None,
    ) -> Tensor:
        """Latents, then what the model has of condition mask, extra channels and padding mask, repeated over frames."""
        batch, _, frames, height, width = x_BCTHW.shape
        channels = [x_BCTHW]
        if condition_mask_B1THW is not None:
            channels.append(condition_mask_B1THW.to(x_BCTHW.dtype))
        if extra_BCTHW is not None:
            channels.append(extra_BCTHW[:, :, :frames].to(x_BCTHW.dtype))
        if self.config.padding_mask and padding_mask_B1HW is None:
            channels.append(x_BCTHW.new_zeros(batch, 1, frames, height, width))
        elif self.config.padding_mask and padding_mask_B1HW is not None:
            cells_B1HW = F.interpolate(padding_mask_B1HW.to(x_BCTHW.dtype), (height, width), mode="nearest")
            channels.append(cells_B1HW[:, :, None].expand(batch, 1, frames, height, width))
        return torch.cat(channels, dim=1)

    def _check_input(self, x_BCTHW: Tensor, condition_mask_B1THW: Tensor | None, extra_BCTHW: Tensor | None) -> None:
        _, channels, _, height, width = x_BCTHW.shape
        patch = self.config.patch_spatial
        if channels != self.config.latent_channels:
            raise ConfigError(f"latents have {channels} channels, the model takes {self.config.latent_channels}")
        if height % patch or width % patch:
            raise ConfigError(f"latents of {height} x {width} cells can not be cut into patches of {patch} x {patch}")
        if (condition_mask_B1THW is not None) != self.config.condition_mask:
            raise ConfigError(
                f"model.condition_mask={self.config.condition_mask}, but a condition mask was "
                f"{'not given' if condition_mask_B1THW is None else 'given'}"
            )
        num_extra = 0 if extra_BCTHW is None else extra_BCTHW.shape[1]
        if num_extra != self.config.extra_channels:
            raise ConfigError(f"model.extra_channels={self.config.extra_channels}, but {num_extra} were given")


def _ones(weight: Tensor, generator: torch.Generator) -> None:
    weight.fill_(1.0)


def _zeros(weight: Tensor, generator: torch.Generator) -> None:
    weight.zero_()


def _normal(weight: Tensor, generator: torch.Generator) -> None:
    weight.normal_(std=0.02, generator=generator)


def _truncated_normal(weight: Tensor, generator: torch.Generator) -> None:
    nn.init.trunc_normal_(weight, std=0.02, generator=generator)


def _xavier_uniform(num_matrices: int) -> Init:
    """Xavier for `num_matrices` matrices that lie in one: each has its own fan-out."""

    def init(weight: Tensor, generator: torch.Generator) -> None:
        fan_out, fan_in = weight.shape[0] // num_matrices, weight.shape[1]
        bound = math.sqrt(6 / (fan_in + fan_out))
        weight.uniform_(-bound, bound, generator=generator)

    return init
