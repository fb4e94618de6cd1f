"""The layers that a model receives instead of making them, and the native maker: megatron-core's own, CPU or GPU.

A model asks for logical sizes (all heads, all columns) and gets what its rank holds. Activations are [L, B, D], tokens
first, as megatron-core's sequence parallelism wants them. The other maker is cosmos_train.parallel.te.

  column_linear(D_in, D_out)   [L, B, D_in] whole      -> [L, B, D_out / tp]: this rank's columns
  shared_linear(D_in, D_out)   the same for an input that is whole on every rank under sequence parallelism too (text)
  row_linear(D_in, D_out)      [L, B, D_in / tp] of this rank -> [L, B, D_out], summed over ranks
  head_norm(K)                 RMSNorm over the width of a head; name it q_layernorm or k_layernorm (see mcore.py)
  attention()                  q, k, v [L, B, N / tp, K] -> [L, B, N / tp * K], unmasked
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from cosmos_train.parallel.mesh import Mesh


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
    enter_sequence: Callable[[Tensor], Tensor]
    """[L, B, D] whole -> this rank's rows under sequence parallelism; the same tensor without it."""
    leave_sequence: Callable[[Tensor], Tensor]
    """This rank's rows -> [L, B, D] whole. What follows must be the same work on every tensor-parallel rank."""


def native_layers(config: TransformerConfig, mesh: Mesh) -> Layers:
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
        attention=DotProductAttention,
        enter_sequence=enter_sequence(config, mesh),
        leave_sequence=leave_sequence(config, mesh),
    )


def enter_sequence(config: TransformerConfig, mesh: Mesh) -> Callable[[Tensor], Tensor]:
    """See Layers.enter_sequence. A plain slice: whatever made the tensor gets this rank's part of the gradient."""
    if not config.sequence_parallel:
        return lambda x_LBD: x_LBD

    def local_rows(x_LBD: Tensor) -> Tensor:
        if len(x_LBD) % mesh.tp.size():
            raise ValueError(
                f"{len(x_LBD)} tokens do not divide over parallel.tp={mesh.tp.size()} ranks; switch "
                "parallel.sequence_parallel off, or choose frames and sizes that give a multiple"
            )
        return x_LBD.chunk(mesh.tp.size())[mesh.tp.rank()]

    return local_rows


def leave_sequence(config: TransformerConfig, mesh: Mesh) -> Callable[[Tensor], Tensor]:
    """See Layers.leave_sequence. Its gradient is split, not summed, because every rank computes all of it."""
    if not config.sequence_parallel:
        return lambda x_LBD: x_LBD
    return lambda x_LBD: tensor_parallel.gather_from_sequence_parallel_region(
        x_LBD, tensor_parallel_output_grad=False, group=mesh.tp
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


class DotProductAttention(nn.Module):
    """softmax(q k^T / sqrt(K)) v without a mask."""

    def forward(self, q_LBNK: Tensor, k_SBNK: Tensor, v_SBNK: Tensor) -> Tensor:
        """q [L, B, N, K], k and v [S, B, N, K] -> [L, B, N * K]."""
        q, k, v = (x.permute(1, 2, 0, 3) for x in (q_LBNK, k_SBNK, v_SBNK))
        if q.device.type == "cpu":  # whose kernel reads a head's rows several times: together they are faster to read
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out_BNLK = F.scaled_dot_product_attention(q, k, v)
        return out_BNLK.permute(2, 0, 1, 3).flatten(2)
