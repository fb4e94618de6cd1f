"""The layers that a model receives instead of making them, and the native maker: megatron-core's own, CPU or GPU.

A model asks for logical sizes (all heads, all columns) and gets what its rank holds. Activations are [L, B, D], tokens
first, as megatron-core's sequence parallelism wants them. The other maker is cosmos_train.parallel.te.

  column_linear(D_in, D_out)   [L, B, D_in] whole      -> [L, B, D_out / tp]: this rank's columns
  shared_linear(D_in, D_out)   the same for an input that is whole on every rank under sequence parallelism too (text)
  row_linear(D_in, D_out)      [L, B, D_in / tp] of this rank -> [L, B, D_out], summed over ranks
  head_norm(K)                 RMSNorm over the width of a head; name it q_layernorm or k_layernorm (see mcore.py)
  attention()                  q, k, v [l, B, N / tp, K] -> [l, B, N / tp * K], unmasked. With a TokenSplit l are this
                               rank's tokens and each sees those of all ranks; without, k and v are whole (text)
  split(L)                     how L tokens divide over the ranks (cosmos_train.parallel.context.TokenSplit)

What computes in 8 bits also needs to be told what the layers are called, where the blocks begin and end, and that a
block is computed again: finish, autocast and checkpoint. The native maker has nothing to do there.
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
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import TokenSplit, split_tokens
from cosmos_train.parallel.mesh import Mesh

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
    head_norm: Callable[[int], nn.Module]
    attention: Callable[[], nn.Module]
    split: Callable[[int], TokenSplit]
    finish: Callable[[nn.Module], None] = lambda model: None
    """To be called with the model when it has all its layers, under the names that they have in the whole model."""
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    """The blocks of one forward pass run inside, all of them inside one."""
    checkpoint: Callable[..., Any] = recompute
    """checkpoint(block, *args): runs the block, keeps its arguments alone, runs it again in the backward pass."""


def native_layers(parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> Layers:
    """megatron-core's tensor-parallel linears and torch's attention: any device, no TransformerEngine."""
    unsplit = copy.copy(config)
    unsplit.sequence_parallel = False
    return Layers(
        name="native",
        tp=mesh.tp.size(),
        column_linear=lambda d_in, d_out: ColumnLinear(d_in, d_out, config, mesh),
        shared_linear=lambda d_in, d_out: ColumnLinear(d_in, d_out, unsplit, mesh),
        row_linear=lambda d_in, d_out: RowLinear(d_in, d_out, config, mesh),
        head_norm=lambda head_dim: RMSNorm(head_dim, eps=config.layernorm_epsilon, dtype=config.params_dtype),
        attention=lambda: SplitAttention(dot_product_attention, exchange=parallel.cp_comm == "a2a"),
        split=lambda num_tokens: split_tokens(num_tokens, parallel, mesh),
    )


class ColumnLinear(tensor_parallel.ColumnParallelLinear):
    """y = x W^T with the rows of W (the columns of the product) divided over tensor-parallel ranks. No bias.

    On one rank a plain product gives the same without megatron-core's autograd function, which is Python and costs a
    small model on a CPU some 3 % (benchmarks/dit_step.py).
    """

    weight: nn.Parameter

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__(
            d_in, d_out, config=config, init_method=nn.init.zeros_, bias=False, gather_output=False, tp_group=mesh.tp
        )
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)
        self.is_whole = mesh.tp.size() == 1

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in] -> [L, B, d_out / tp]."""
        return F.linear(x_LBD, self.weight) if self.is_whole else super().forward(x_LBD)[0]


class RowLinear(tensor_parallel.RowParallelLinear):
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
        set_tensor_model_parallel_attributes(self.weight, True, 1, 1)
        self.is_whole = mesh.tp.size() == 1

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in / tp] -> [L, B, d_out]."""
        return F.linear(x_LBD, self.weight) if self.is_whole else super().forward(x_LBD)[0]


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
"""q [L, B, N, K], k and v [S, B, N, K] -> [L, B, N * K]."""


class SplitAttention(nn.Module):
    """Attention between tokens that ranks may have divided: the exchange around an attention that knows of no ranks."""

    def __init__(self, attend: Attend, *, exchange: bool) -> None:
        """exchange: heads for tokens (all-to-all), as in arXiv 2309.14509; else keys and values are gathered."""
        super().__init__()
        self.attend, self.exchange = attend, exchange

    def forward(self, q_lBNK: Tensor, k_SBNK: Tensor, v_SBNK: Tensor, split: TokenSplit | None = None) -> Tensor:
        """q [l, B, N, K], k and v [S, B, N, K] -> [l, B, N * K]. With a split S is l, a part of the tokens."""
        if split is None:
            return self.attend(q_lBNK, k_SBNK, v_SBNK)
        if self.exchange and split.context is not None:
            return split.heads_to_rows(self.attend(*(split.rows_to_heads(x) for x in (q_lBNK, k_SBNK, v_SBNK))))
        return self.attend(q_lBNK, split.all_rows(k_SBNK), split.all_rows(v_SBNK))


def dot_product_attention(q_LBNK: Tensor, k_SBNK: Tensor, v_SBNK: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)) v without a mask: q [L, B, N, K], k and v [S, B, N, K] -> [L, B, N * K]."""
    q, k, v = (x.permute(1, 2, 0, 3) for x in (q_LBNK, k_SBNK, v_SBNK))
    if q.device.type == "cpu":  # whose kernel reads a head's rows several times: together they are faster to read
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3).flatten(2)
