"""The autoregressive Cosmos world model (arXiv 2501.03575, section 5.2), read top to bottom: parts, block, model.

A Llama-like decoder over the codes of a discrete video tokenizer:
  - no biases; RMSNorm before each sub-layer, per-head RMSNorm on queries and keys; SwiGLU; embedding and output untied
  - rotary positions over (t, y, x) by index; the Video2World models also add a sinusoid of it before every block,
    attend to text in every block, and begin with a token of their own
  - a group's queries, key and value lie together in one matrix, [G, N / G + 2, K, D], and the MLP's gate and value
    alternate, [F / 16, 2, 16, D], so that a tensor-parallel rank's part is contiguous; the converters take them apart

Letters: B batch, L tokens, D width, N query heads, G key/value heads, K head width, F hidden width of the MLP, V codes,
S text tokens, E text width. They mean logical sizes: a rank may hold N / tp heads or some of L.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.common.rope3d import apply_rope
from cosmos_train.models.world_ar.config import GATE_GROUP, WorldARConfig
from cosmos_train.models.world_ar.positions import grid_positions, rotary_angles, sinusoids
from cosmos_train.parallel.context import TokenSplit
from cosmos_train.parallel.kv_cache import KVCache
from cosmos_train.parallel.layers import Layers
from cosmos_train.parallel.lora import note_joined
from cosmos_train.parallel.pipeline import StagePlan
from cosmos_train.parallel.shard import Fill, Init


@dataclass(frozen=True, slots=True)
class Context:
    """What every block is told besides the residual stream."""

    rope_cos: Tensor
    rope_sin: Tensor
    """[l, 1, 1, K / 2], for the tokens of this rank's queries."""
    position_L1D: Tensor | None
    """Sinusoid of the residual stream's tokens, where the model adds it."""
    text_SBE: Tensor | None
    split: TokenSplit
    """How the ranks divide the tokens; only self-attention asks."""
    cache: KVCache | None
    """Keys and values of the tokens before these, where a video is generated."""


class SelfAttention(nn.Module):
    """Attention of every token to itself and to those before it, in groups of heads that share keys and values."""

    def __init__(self, config: WorldARConfig, layers: Layers, block: str) -> None:
        super().__init__()
        self.block = block
        self.num_groups, self.head_dim = config.num_kv_heads // layers.tp, config.head_dim
        self.per_group = config.num_heads // config.num_kv_heads
        qkv = layers.column_linear(config.width, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim)
        self.qkv = note_joined(qkv, [self.per_group * self.head_dim, self.head_dim, self.head_dim])
        self.q_layernorm = layers.head_norm(config.head_dim)
        self.k_layernorm = layers.head_norm(config.head_dim)
        self.attention = layers.causal_attention()
        self.out = layers.row_linear(config.num_heads * config.head_dim, config.width)

    def forward(self, x_LBD: Tensor, context: Context) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        groups = self.qkv(x_LBD).unflatten(-1, (self.num_groups, self.per_group + 2, self.head_dim))
        q = groups[..., : self.per_group, :].flatten(2, 3)  # [L, B, N, K]
        k, v = groups[..., self.per_group :, :].unbind(-2)  # [L, B, G, K]
        q = apply_rope(self.q_layernorm(q), context.rope_cos, context.rope_sin)
        k = apply_rope(self.k_layernorm(k), context.rope_cos, context.rope_sin)
        if context.cache is not None:
            return self.out(context.cache.attend(self.block, q, k, v))
        return self.out(self.attention(q, k, v, context.split))


class CrossAttention(nn.Module):
    """Attention of every token to the text states; positions past the prompt's end are zero states, unmasked."""

    def __init__(self, config: WorldARConfig, layers: Layers, block: str) -> None:
        super().__init__()
        self.block = block
        self.num_heads, self.num_groups = config.num_heads // layers.tp, config.num_kv_heads // layers.tp
        self.head_dim = config.head_dim
        self.q = layers.column_linear(config.width, config.num_heads * config.head_dim)
        kv = layers.shared_linear(config.text_width, 2 * config.num_kv_heads * config.head_dim)
        self.kv = note_joined(kv, 2 * [config.head_dim])  # rows: [G, 2, K]
        self.q_layernorm = layers.head_norm(config.head_dim)
        self.k_layernorm = layers.head_norm(config.head_dim)
        self.attention = layers.attention()
        self.out = layers.row_linear(config.num_heads * config.head_dim, config.width)

    def forward(self, x_LBD: Tensor, context: Context) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        q = self.q_layernorm(self.q(x_LBD).unflatten(-1, (self.num_heads, self.head_dim)))
        keys_values = functools.partial(self._keys_values, context)
        if context.cache is not None:
            return self.out(context.cache.attend_text(self.block, q, keys_values))
        return self.out(self.attention(q, *keys_values()))

    def _keys_values(self, context: Context) -> tuple[Tensor, Tensor]:
        k, v = self.kv(context.text_SBE).unflatten(-1, (self.num_groups, 2, self.head_dim)).unbind(-2)
        return self.k_layernorm(k), v


class ActionContext(nn.Module):
    """An action -> what cross-attention reads in the place of text: A -> E / 4, ReLU, -> E, with biases.

    One token of it. The released code repeats that A times; attention to tokens that are all alike gives the same.
    """

    def __init__(self, config: WorldARConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.action_width, config.text_width // 4)
        self.out = nn.Linear(config.text_width // 4, config.text_width)

    def forward(self, action_B1A: Tensor) -> Tensor:
        """[B, 1, A] -> [B, 1, E]."""
        return self.out(F.relu(self.hidden(action_B1A.to(self.hidden.weight.dtype))))


class SwiGLU(nn.Module):
    """W_down (silu(W_gate x) * W_value x)."""

    def __init__(self, config: WorldARConfig, layers: Layers, stage: StagePlan) -> None:
        super().__init__()
        self.stage = stage
        up = layers.column_linear(config.width, 2 * config.ffn_width)
        self.up = note_joined(up, 2 * [GATE_GROUP])  # rows: [F / 16, 2, 16]
        self.down = layers.row_linear(config.ffn_width, config.width)

    def forward(self, x_LBD: Tensor, context: Context) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        return self.stage.through(gated, self.down, self.up(x_LBD))


def gated(x_LBF: Tensor) -> Tensor:
    """silu(gate) * value: [L, B, 2 F] -> [L, B, F]."""
    gate, value = x_LBF.unflatten(-1, (-1, 2, GATE_GROUP)).unbind(-2)
    return (F.silu(gate) * value).flatten(2)


class Block(nn.Module):
    """Self-attention, cross-attention where the model has it, MLP: each normalised before and added after."""

    def __init__(self, config: WorldARConfig, layers: Layers, stage: StagePlan, name: str) -> None:
        super().__init__()
        self.stage = stage
        self.self_norm = layers.norm(config.width)
        self.self_attention = SelfAttention(config, layers, name)
        if config.cross_attention:
            self.cross_norm = layers.norm(config.width)
            self.cross_attention = CrossAttention(config, layers, name)
        self.mlp_norm = layers.norm(config.width)
        self.mlp = SwiGLU(config, layers, stage)
        self.has_text = config.cross_attention

    def forward(self, x_LBD: Tensor, context: Context) -> Tensor:
        """[L, B, D] -> [L, B, D]."""
        if context.position_L1D is not None:
            x_LBD = x_LBD + context.position_L1D
        x_LBD = x_LBD + self._branch(self.self_norm, self.self_attention, x_LBD, context)
        if self.has_text:
            x_LBD = x_LBD + self._branch(self.cross_norm, self.cross_attention, x_LBD, context)
        return x_LBD + self._branch(self.mlp_norm, self.mlp, x_LBD, context)

    def _branch(self, norm: nn.Module, layer: nn.Module, x_LBD: Tensor, context: Context) -> Tensor:
        return self.stage.through(norm, functools.partial(layer, context=context), x_LBD)


class WorldAR(nn.Module):
    """Codes so far -> logits of the next one, or one pipeline stage of it."""

    def __init__(self, config: WorldARConfig, layers: Layers, stage: StagePlan) -> None:
        super().__init__()
        self.config, self.layers, self.stage = config, layers, stage
        if stage.is_first:
            self.embed = layers.vocab_embedding(config.embedding_rows, config.width)
        # Every stage has its own copy of what all blocks read; their gradients are summed over the stages.
        self.action = stage.shared("action", lambda: ActionContext(config)) if config.action_width else None
        # Named by their number in the whole model, so that a parameter's name does not depend on the pipeline.
        self.blocks = nn.ModuleDict({str(i): Block(config, layers, stage, str(i)) for i in stage.blocks})
        if stage.is_last:
            self.final_norm = layers.norm(config.width)
            self.output = layers.column_linear(config.width, config.vocab_size)
        layers.finish(self)

    def forward(
        self,
        ids_BL: Tensor,
        grid_HW: tuple[int, int],
        *,
        text_BSE: Tensor | None = None,
        hidden_LBD: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor | tuple[Tensor, TokenSplit]:
        """(logits [l, B, V / tp] of a chunk of the tokens, how ranks divide them) on the last stage; on others the
        residual stream [l, B, D]. A token's logits are of the code that follows it.

        Args:
            ids_BL: codes with time outermost, after the begin token where the model has one. Whole on every rank.
            grid_HW: rows and columns of codes in a latent frame.
            text_BSE: encoder states, zeros past the prompt's end; or the action [B, 1, A] of a model that reads one.
                Required exactly where the model has cross-attention.
            hidden_LBD: the previous stage's output, on all stages but the first.
            cache: of a video that is generated. ids_BL are then those that follow the tokens in it, and join them. The
                last stage gives the residual stream behind its norm: few tokens are worth `output`, which has a column
                for every code. The text is always the same.
        """
        if (text_BSE is not None) != self.config.cross_attention:
            raise ConfigError(
                f"model.cross_attention={self.config.cross_attention}, but text states were "
                f"{'not given' if text_BSE is None else 'given'}"
            )
        width = self.config.action_width
        if width and text_BSE is not None and text_BSE.shape[1:] != (1, width):
            raise ConfigError(
                f"model.action_width={width}, but an action of shape {list(text_BSE.shape)} was given; give [B, 1, "
                f"{width}]"
            )
        context = self._context(ids_BL, grid_HW, text_BSE, cache)
        if self.stage.is_first:
            x_LBD = self.embed(context.split.context_rows(ids_BL.T).T)
        else:
            assert hidden_LBD is not None, "a stage that is not the first needs the previous stage's output"
            x_LBD = hidden_LBD
        with self.layers.autocast(x_LBD):
            for block in self.blocks.values():
                x_LBD = self.stage.run_block(block, x_LBD, context, self.layers.checkpoint)
        if cache is not None:
            cache.length += ids_BL.shape[1]
        if not self.stage.is_last:
            return x_LBD
        x_LBD = self.final_norm(x_LBD)
        return x_LBD if cache is not None else (self.logits(x_LBD), context.split)

    def logits(self, x_LBD: Tensor) -> Tensor:
        """What training scores of the residual stream behind the last norm: [L, B, V / tp]."""
        return self.output(x_LBD)

    def init_weights(self, fill: Fill) -> None:
        """As released: embeddings normal(1), output normal(1 / sqrt(D)), else truncated normal(0.02); what adds to the
        residual stream of block i, and the MLP's value, by sqrt(2 (i + 1)) less."""
        for name, param in self.named_parameters():
            less = math.sqrt(2 * (int(name.split(".")[1]) + 1)) if name.startswith("blocks.") else 1.0
            if name.endswith("norm.weight"):
                fill(name, param, lambda weight, _generator: weight.fill_(1.0))
            elif name.endswith(".bias"):
                fill(name, param, lambda weight, _generator: weight.zero_())
            elif name == "embed.weight":
                fill(name, param, lambda weight, generator: weight.normal_(generator=generator))
            elif name == "medusa.weight":
                fill(name, param, lambda weight, _generator: weight.zero_())  # each head begins as the model's own
            elif name == "output.weight":
                fill(name, param, _truncated_normal(self.config.width**-0.5))
            elif name.endswith("up.weight"):
                fill(name, param, functools.partial(_gate_and_value, less=less, padding=self.config.ffn_padding))
            elif name.endswith("down.weight"):
                fill(name, param, functools.partial(_down, std=0.02 / less, padding=self.config.ffn_padding))
            else:
                adds = name.startswith("blocks.") and name.endswith("out.weight")
                fill(name, param, _truncated_normal(0.02 / less if adds else 0.02))

    def _context(
        self, ids_BL: Tensor, grid_HW: tuple[int, int], text_BSE: Tensor | None, cache: KVCache | None
    ) -> Context:
        num_tokens, start = ids_BL.shape[1], 0 if cache is None else cache.length
        config, split = self.config, self.layers.causal_split(num_tokens)
        place_L3 = grid_positions(config, range(start, start + num_tokens), grid_HW, ids_BL.device)
        angle = rotary_angles(config, place_L3)
        dtype = next(self.parameters()).dtype
        if self.action is not None:
            text_BSE = self.action(text_BSE)
        return Context(
            rope_cos=split.context_rows(angle.cos()).to(dtype),
            rope_sin=split.context_rows(angle.sin()).to(dtype),
            position_L1D=split.enter(sinusoids(config.width, place_L3)).to(dtype)
            if config.absolute_positions
            else None,
            text_SBE=None if text_BSE is None else text_BSE.transpose(0, 1).to(dtype),
            split=split,
            cache=cache,
        )


def _truncated_normal(std: float) -> Init:
    """Cut at three standard deviations."""

    def init(weight: Tensor, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)

    return init


def _gate_and_value(weight: Tensor, generator: torch.Generator, *, less: float, padding: int) -> None:
    """Rows [F / 16, 2, 16, D]: the gate's as any linear's, the value's smaller, those of the padding zero."""
    _truncated_normal(0.02)(weight, generator)
    rows = weight.unflatten(0, (-1, 2, GATE_GROUP))
    rows[:, 1].div_(less)
    rows[-1, :, GATE_GROUP - padding :] = 0


def _down(weight: Tensor, generator: torch.Generator, *, std: float, padding: int) -> None:
    """Columns [D, F], those of the padding zero."""
    _truncated_normal(std)(weight, generator)
    weight[:, weight.shape[1] - padding :] = 0
