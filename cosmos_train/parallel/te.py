"""The TransformerEngine maker of layers: megatron-core's TE linears, TE's RMSNorm and its attention.

Imported only where CUDA and TransformerEngine are there (see cosmos_train.parallel.engine.make_layers). Parameters
have the names and shapes of the native maker's, so that checkpoints go both ways.
"""

import copy
from typing import cast

import torch
from megatron.core.extensions.transformer_engine import (
    TEColumnParallelLinear,
    TEDotProductAttention,
    TENorm,
    TERowParallelLinear,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor, nn

from cosmos_train.parallel.layers import Layers, enter_sequence, leave_sequence
from cosmos_train.parallel.mesh import Mesh


def te_layers(config: TransformerConfig, mesh: Mesh) -> Layers:
    """TransformerEngine's layers for this layout. Needs a CUDA device."""
    unsplit = copy.copy(config)
    unsplit.sequence_parallel = False
    return Layers(
        name="te",
        tp=mesh.tp.size(),
        column_linear=lambda d_in, d_out: TEColumnLinear(d_in, d_out, config, mesh),
        shared_linear=lambda d_in, d_out: TEColumnLinear(d_in, d_out, unsplit, mesh),
        row_linear=lambda d_in, d_out: TERowLinear(d_in, d_out, config, mesh),
        # A head's norm sees whole heads, never a part of the tokens' sequence that TE should know of.
        head_norm=lambda head_dim: cast(nn.Module, TENorm(unsplit, head_dim, eps=config.layernorm_epsilon)),
        attention=lambda: TEAttention(config),
        enter_sequence=enter_sequence(config, mesh),
        leave_sequence=leave_sequence(config, mesh),
    )


class TEColumnLinear(TEColumnParallelLinear):
    """See cosmos_train.parallel.layers.ColumnLinear."""

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__(
            d_in,
            d_out,
            config=config,
            init_method=nn.init.zeros_,
            gather_output=False,
            bias=False,
            skip_bias_add=False,
            is_expert=False,
            tp_group=mesh.tp,
        )

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in] -> [L, B, d_out / tp]."""
        return super().forward(x_LBD)[0]


class TERowLinear(TERowParallelLinear):
    """See cosmos_train.parallel.layers.RowLinear."""

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__(
            d_in,
            d_out,
            config=config,
            init_method=nn.init.zeros_,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
            is_expert=False,
            tp_group=mesh.tp,
        )

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in / tp] -> [L, B, d_out]."""
        return super().forward(x_LBD)[0]


class TEAttention(nn.Module):
    """See cosmos_train.parallel.layers.DotProductAttention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.core = TEDotProductAttention(
            config, layer_number=1, attn_mask_type=AttnMaskType.no_mask, attention_type="cross"
        )

    def forward(self, q_LBNK: Tensor, k_SBNK: Tensor, v_SBNK: Tensor) -> Tensor:
        """q [L, B, N, K], k and v [S, B, N, K] -> [L, B, N * K]."""
        out: torch.Tensor = self.core(q_LBNK, k_SBNK, v_SBNK, None, attn_mask_type=AttnMaskType.no_mask)
        return out
