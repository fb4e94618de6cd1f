"""The layers that a model receives instead of making them, and the native maker: megatron-core's own, CPU or GPU.

A model asks for logical sizes (all heads, all columns) and gets what its rank holds. Activations are [L, B, D], tokens
first, as megatron-core's sequence parallelism wants them. The other maker is cosmos_train.parallel.te.

  column_linear(D_in, D_out)   [L, B, D_in] whole      -> [L, B, D_out / tp]: this rank's columns
  shared_linear(D_in, D_out)   the same for an input that is whole on every rank under sequence parallelism too (text)
  row_linear(D_in, D_out)      [L, B, D_in / tp] of this rank -> [L, B, D_out], summed over ranks
  norm(D)                      RMSNorm of the residual stream
  head_norm(K)                 RMSNorm over the width of a head, of this rank's heads
  attention()                  q [l, B, N / tp, K], k and v [l, B, G / tp, K] -> [l, B, N / tp * K], unmasked; G
                               key/value heads, each for N / G queries. With a TokenSplit l are this rank's tokens and
                               each sees those of all ranks; without, k and v are whole (text), and key_mask_BS may
                               leave some of them out
  causal_attention()           the same for tokens that see themselves and those before them
  vocab_embedding(rows, D)     ids [B, l] of a context-parallel chunk -> [l / tp, B, D]: this rank's rows
  split(L)                     how L tokens divide over the ranks (cosmos_train.parallel.context.TokenSplit)
  causal_split(L)              the same, with equal work for causal attention

What computes in 8 bits also needs to be told what the layers are called, where the blocks begin and end, and that a
block is computed again: finish, autocast and checkpoint. parallel.compile needs the first two as well.
"""

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from megatron.core import tensor_parallel
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from cosmos_train.parallel.apex import has_fused_weight_gradient
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import TokenSplit, split_tokens
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import has_gradient_sum, mark_divided, mark_own_heads

recompute = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
"""The native Layers.checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """A maker of layers for one layout."""

    name: str
    tp: int
    """Tensor-parallel degree: a model divides its number of heads by it."""
    column_linear: Callable[[int, int], nn.Module]
    shared_linear: Callable[[int, int], nn.Module]
    row_linear: Callable[[int, int], nn.Module]
    norm: Callable[[int], nn.Module]
    head_norm: Callable[[int], nn.Module]
    attention: Callable[[], nn.Module]
    causal_attention: Callable[[], nn.Module]
    vocab_embedding: Callable[[int, int], nn.Module]
    split: Callable[[int], TokenSplit]
    causal_split: Callable[[int], TokenSplit]
    finish: Callable[[nn.Module], None] = lambda model: None
    """To be called with the model when it has all its layers, under the names that they have in the whole model."""
    autocast: Callable[[Tensor], AbstractContextManager[None]] = lambda x_LBD: nullcontext()
    """autocast(x): all blocks of one forward pass run inside; x [l, B, D] is what goes into the first one."""
    checkpoint: Callable[..., Any] = recompute
    """checkpoint(block, *args): runs the block, keeps its arguments alone, runs it again in the backward pass."""


def native_layers(parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> Layers:
    """megatron-core's tensor-parallel linears and torch's attention: any device, no TransformerEngine."""
    config = copy.copy(config)
    config.gradient_accumulation_fusion = fuses_weight_gradients(mesh.device)
    unsplit = copy.copy(config)
    unsplit.sequence_parallel = False

    def norm(width: int) -> RMSNorm:
        return RMSNorm(width, eps=config.layernorm_epsilon, dtype=config.params_dtype)

    exchange = parallel.cp_comm == "a2a"
    return Layers(
        name="native",
        tp=mesh.tp.size(),
        column_linear=lambda d_in, d_out: ColumnLinear(d_in, d_out, config, mesh),
        shared_linear=lambda d_in, d_out: ColumnLinear(d_in, d_out, unsplit, mesh),
        row_linear=lambda d_in, d_out: RowLinear(d_in, d_out, config, mesh),
        norm=norm,
        head_norm=lambda head_dim: mark_own_heads(norm(head_dim)),
        attention=lambda: SplitAttention(dot_product_attention, exchange=exchange),
        causal_attention=lambda: SplitCausalAttention(exchange=exchange),
        vocab_embedding=lambda num_rows, width: VocabEmbedding(num_rows, width, config, mesh),
        split=lambda num_tokens: split_tokens(num_tokens, parallel, mesh),
        causal_split=lambda num_tokens: split_tokens(num_tokens, parallel, mesh, causal=True),
        finish=functools.partial(compile_blocks, parallel=parallel),
        autocast=functools.partial(new_graph_step, parallel=parallel),
    )


def fuses_weight_gradients(device: torch.device) -> bool:
    """Whether apex' kernel adds a linear's weight gradient to the sum of gradients as it computes it."""
    return device.type == "cuda" and has_fused_weight_gradient()


def compile_blocks(model: nn.Module, *, parallel: ParallelConfig) -> None:
    """Layers.finish of parallel.compile. A block is compiled when it is first called, anew for each size of batch."""
    if parallel.compile == "none":
        return
    for block in model.get_submodule("blocks").children():
        block.compile(mode="reduce-overhead" if parallel.compile == "cuda_graphs" else None)


def new_graph_step(x_LBD: Tensor, *, parallel: ParallelConfig) -> AbstractContextManager[None]:
    """Layers.autocast of parallel.compile: what CUDA graphs gave in the forward pass before may be overwritten."""
    if parallel.compile == "cuda_graphs":
        torch.compiler.cudagraph_mark_step_begin()
    return nullcontext()


class WholeOrDivided:
    """How a native linear computes: by megatron-core, or on one rank by torch alone.

    On one rank a plain product gives the same without megatron-core's autograd function, which is Python and costs a
    small model on a CPU some 3 % (benchmarks/dit_step.py).
    """

    weight: nn.Parameter
    gradient_accumulation_fusion: bool

    def note_layout(self, mesh: Mesh) -> None:
        """Note what the layout asks for, once the weight is there."""
        self.fuses = self.gradient_accumulation_fusion
        self.is_whole = mesh.tp.size() == 1 and not self.fuses

    def product(self, x_LBD: Tensor, divided: Callable[[Tensor], tuple[Tensor, Any]]) -> Tensor:
        """x W^T; `divided` is megatron-core's forward."""
        if self.fuses:  # without a sum to add to, as of a frozen weight, the kernel fails
            self.gradient_accumulation_fusion = has_gradient_sum(self.weight)
        return F.linear(x_LBD, self.weight) if self.is_whole else divided(x_LBD)[0]


class ColumnLinear(WholeOrDivided, tensor_parallel.ColumnParallelLinear):
    """y = x W^T with the rows of W (the columns of the product) divided over tensor-parallel ranks. No bias."""

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__(
            d_in, d_out, config=config, init_method=nn.init.zeros_, bias=False, gather_output=False, tp_group=mesh.tp
        )
        mark_divided(self.weight, 0)
        self.note_layout(mesh)

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in] -> [L, B, d_out / tp]."""
        return self.product(x_LBD, super().forward)


class RowLinear(WholeOrDivided, tensor_parallel.RowParallelLinear):
    """y = x W^T with the columns of W divided over tensor-parallel ranks, summed over them. No bias."""

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__(
            d_in,
            d_out,
            config=config,
            init_method=nn.init.zeros_,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=mesh.tp,
        )
        mark_divided(self.weight, 1)
        self.note_layout(mesh)

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in / tp] -> [L, B, d_out]."""
        return self.product(x_LBD, super().forward)


class VocabEmbedding(tensor_parallel.VocabParallelEmbedding):
    """A table of D numbers a token id, its rows divided over tensor-parallel ranks; any device, in bf16 or fp32."""

    def __init__(self, num_rows: int, width: int, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__(
            num_rows,
            width,
            init_method=nn.init.zeros_,
            reduce_scatter_embeddings=config.sequence_parallel,
            config=config,
            tp_group=mesh.tp,
        )
        mark_divided(self.weight, 0)

    def forward(self, ids_Bl: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, l] -> [l, B, D], or under sequence parallelism this rank's part of the rows."""
        x = super().forward(ids_Bl)
        return x if self.reduce_scatter_embeddings else x.transpose(0, 1).contiguous()


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int, *, eps: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [L, B, N, K], k and v [S, B, G, K] -> [L, B, N * K]."""


class SplitAttention(nn.Module):
    """Attention between tokens that ranks may have divided: the exchange around an attention that knows of no ranks."""

    def __init__(self, attend: Attend, *, exchange: bool) -> None:
        """exchange: heads for tokens (all-to-all), as in arXiv 2309.14509; else keys and values are gathered."""
        super().__init__()
        self.attend, self.exchange = attend, exchange

    def forward(
        self,
        q_lBNK: Tensor,
        k_SBGK: Tensor,
        v_SBGK: Tensor,
        split: TokenSplit | None = None,
        *,
        key_mask_BS: Tensor | None = None,
    ) -> Tensor:
        """q [l, B, N, K], k and v [S, B, G, K] -> [l, B, N * K]. With a split S is l, a part of the tokens.

        key_mask_BS: see masked_attention; without a split.
        """
        if key_mask_BS is not None:
            return masked_attention(q_lBNK, k_SBGK, v_SBGK, key_mask_BS)
        if split is None:
            return self.attend(q_lBNK, k_SBGK, v_SBGK)
        if self.exchange and split.context is not None:
            return split.heads_to_rows(self.attend(*(split.rows_to_heads(x) for x in (q_lBNK, k_SBGK, v_SBGK))))
        return self.attend_rows(q_lBNK, split.all_rows(k_SBGK), split.all_rows(v_SBGK), split)

    def attend_rows(self, q_lBNK: Tensor, k_LBGK: Tensor, v_LBGK: Tensor, split: TokenSplit) -> Tensor:
        """Attention of this rank's rows to all tokens."""
        return self.attend(q_lBNK, k_LBGK, v_LBGK)


class SplitCausalAttention(SplitAttention):
    """The same where a token sees itself and those before it. Needs a split that is made for it."""

    def __init__(self, *, exchange: bool) -> None:
        """exchange: see SplitAttention."""
        super().__init__(causal_attention, exchange=exchange)

    def attend_rows(self, q_lBNK: Tensor, k_LBGK: Tensor, v_LBGK: Tensor, split: TokenSplit) -> Tensor:
        """Each run of this rank's consecutive tokens sees what lies before its end, and so costs no more than that."""
        runs = split.runs
        queries = q_lBNK.split([len(run) for run in runs])
        return torch.cat(
            [causal_attention(q, k_LBGK, v_LBGK, first=run.start) for q, run in zip(queries, runs, strict=True)]
        )


def dot_product_attention(q_LBNK: Tensor, k_SBGK: Tensor, v_SBGK: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)) v without a mask: q [L, B, N, K], k and v [S, B, G, K] -> [L, B, N * K]."""
    return _attention(q_LBNK, k_SBGK, v_SBGK, {})


def masked_attention(q_LBNK: Tensor, k_SBGK: Tensor, v_SBGK: Tensor, key_mask_BS: Tensor) -> Tensor:
    """The same, where only the keys are seen that have 1 in the mask, [B, S] or [1, S]; each row must have one."""
    return _attention(q_LBNK, k_SBGK, v_SBGK, {"attn_mask": key_mask_BS.bool()[:, None, None]})


def causal_attention(q_LBNK: Tensor, k_SBGK: Tensor, v_SBGK: Tensor, *, first: int = 0) -> Tensor:
    """Where query i sees the keys 0 .. first + i. first: the keys before the first query's own."""
    end = first + len(q_LBNK)
    k_SBGK, v_SBGK = k_SBGK[:end], v_SBGK[:end]
    if first == 0:
        return _attention(q_LBNK, k_SBGK, v_SBGK, {"is_causal": True})
    if len(q_LBNK) == 1:  # sees every key
        return _attention(q_LBNK, k_SBGK, v_SBGK, {})
    shape = (len(q_LBNK), len(k_SBGK))
    sees = torch.ones(shape, dtype=torch.bool, device=q_LBNK.device).tril(diagonal=first)
    return _attention(q_LBNK, k_SBGK, v_SBGK, {"attn_mask": sees})


def _attention(q_LBNK: Tensor, k_SBGK: Tensor, v_SBGK: Tensor, mask: dict[str, Any]) -> Tensor:
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q_LBNK, k_SBGK, v_SBGK))
    if q.device.type == "cpu":  # whose kernel reads a head's rows several times: together they are faster to read
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **mask).permute(2, 0, 1, 3).flatten(2)
