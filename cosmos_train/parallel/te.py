"""The TransformerEngine maker of layers: megatron-core's TE linears, TE's RMSNorm, attention and 8-bit products.

Imported only where CUDA and TransformerEngine are there (see cosmos_train.parallel.engine.make_layers). Parameters
have the names and shapes of the native maker's, so that checkpoints go both ways.

8 bits. One autocast holds all blocks of a forward pass: on leaving it fp8_delayed moves on the scales of every layer
that it has ever met, so one a block would do that once a block. What stays in bf16 leaves the autocast by itself, by
megatron-core's switch for a single layer. Layers outside the blocks are torch's own and never in 8 bits.
"""

import copy
import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from megatron.core.extensions.transformer_engine import (
    TEColumnParallelLinear,
    TEDotProductAttention,
    TEQuantizationParams,
    TEQuantizationRecipe,
    TERowParallelLinear,
    set_save_original_input,
)
from megatron.core.parallel_state import get_amax_reduction_group
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor, nn
from transformer_engine.common import recipe as te_recipes  # pyright: ignore[reportMissingImports]
from transformer_engine.pytorch import (  # pyright: ignore[reportMissingImports]
    RMSNorm,
    UserBufferQuantizationMode,
    autocast,
    checkpoint,
    destroy_ub,
    initialize_ub,
    quantized_model_init,
)
from transformer_engine.pytorch.quantization import check_recipe_support  # pyright: ignore[reportMissingImports]

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig, PrecisionConfig
from cosmos_train.parallel.context import TokenSplit, pad_rows, split_tokens
from cosmos_train.parallel.layers import (
    Layers,
    SplitAttention,
    SplitCausalAttention,
    VocabEmbedding,
    compile_blocks,
    dot_product_attention,
    masked_attention,
    new_graph_step,
)
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.precision import RECIPES, row_multiple, stays_bf16, te_recipe
from cosmos_train.parallel.shard import mark_own_heads, marks_of, put_marks

log = logging.getLogger(__name__)


def te_layers(parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> Layers:
    """TransformerEngine's layers for this layout. Needs a CUDA device.

    Raises:
        ConfigError: this CUDA version lacks the recipe.
    """
    precision, rows = parallel.precision, row_multiple(parallel.precision)
    config = copy.copy(config)
    config.use_cpu_initialization = False  # or TransformerEngine's weights would be made on the CPU and stay there
    unsplit = copy.copy(config)
    unsplit.sequence_parallel = False
    config.tp_comm_overlap = parallel.tp_overlap
    # Selective recompute forgets a linear's input and makes it again. In 8 bits the linear would keep a copy besides.
    # Only fp8_delayed has to: its scale for the input has moved on by the time of the backward pass.
    keeps_input = parallel.recompute == "selective" and precision.recipe not in ("none", "fp8_delayed")
    return Layers(
        name="te",
        tp=mesh.tp.size(),
        column_linear=lambda d_in, d_out: TEColumnLinear(d_in, d_out, config, mesh, keeps_input=keeps_input),
        shared_linear=lambda d_in, d_out: TESharedLinear(
            d_in, d_out, unsplit, mesh, keeps_input=keeps_input, rows=rows
        ),
        row_linear=lambda d_in, d_out: TERowLinear(d_in, d_out, config, mesh, keeps_input=keeps_input),
        norm=lambda width: TENorm(width, config, mesh),
        head_norm=lambda head_dim: mark_own_heads(TENorm(head_dim, config, mesh)),
        attention=lambda: TEAttention(parallel, config, mesh),
        causal_attention=lambda: TECausalAttention(parallel, config, mesh),
        vocab_embedding=lambda num_rows, width: VocabEmbedding(num_rows, width, config, mesh),
        split=lambda num_tokens: split_tokens(num_tokens, parallel, mesh, align=rows),
        causal_split=lambda num_tokens: split_tokens(num_tokens, parallel, mesh, align=rows, causal=True),
        **during_blocks(parallel, config, mesh),
    )


def during_blocks(parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> dict[str, Callable]:
    """Layers.finish, autocast and checkpoint. Raises ConfigError where this CUDA version lacks the recipe."""
    recipe = None if parallel.precision.recipe == "none" else make_recipe(parallel.precision)
    buffers = Userbuffers(mesh, has_recipe=recipe is not None) if parallel.tp_overlap else None

    def contexts(x_LBD: Tensor) -> AbstractContextManager[None]:
        if buffers is not None:
            buffers.require(x_LBD)
        without = new_graph_step(x_LBD, parallel=parallel)
        if recipe is None:
            return without
        # The group is asked for here and not above: a test may have built the groups anew.
        return autocast(
            enabled=True, recipe=recipe, amax_reduction_group=get_amax_reduction_group(with_context_parallel=True)
        )

    def finish(model: nn.Module) -> None:
        if recipe is not None:
            kept_in = recipe if parallel.precision.fp8_param_gather else None
            choose_layers(model, config=parallel.precision, num_blocks=config.num_layers, kept_in=kept_in)
        compile_blocks(model, parallel=parallel)

    if recipe is None:
        return {"finish": finish, "autocast": contexts}
    return {
        "finish": finish,
        "autocast": contexts,
        "checkpoint": functools.partial(checkpoint, use_reentrant=False),  # re-enters the recipe, as torch's does not
    }


class Userbuffers:
    """Memory through which linears send while they compute. A process has one set of it, for one size of batch."""

    def __init__(self, mesh: Mesh, *, has_recipe: bool) -> None:
        """has_recipe: some layers send 8 bits; those that stay in bf16 send that."""
        self.tp = mesh.tp
        self.modes = [UserBufferQuantizationMode.NONE, *([UserBufferQuantizationMode.FP8] if has_recipe else [])]
        self.shape: list[int] = []

    def require(self, x_LBD: Tensor) -> None:
        """Made for the first batch. Raises ConfigError at one of another size."""
        shape = [x_LBD.shape[0] * self.tp.size() * x_LBD.shape[1], x_LBD.shape[2]]
        if not self.shape:
            destroy_ub()  # an earlier model's
            initialize_ub(
                shape, self.tp.size(), quantization_modes=self.modes, dtype=x_LBD.dtype, bootstrap_backend="nccl"
            )
            self.shape = shape
        if shape != self.shape:
            raise ConfigError(
                f"parallel.tp_overlap=true has buffers for {self.shape[0]} tokens, the first batch's, but a batch has "
                f"{shape[0]}; train on one size and kind of batch, or switch tp_overlap off"
            )


def make_recipe(config: PrecisionConfig) -> Any:
    """TransformerEngine's recipe. Raises ConfigError where this CUDA version lacks it."""
    name, arguments = te_recipe(config)
    if "fp8_format" in arguments:
        arguments["fp8_format"] = te_recipes.Format[arguments["fp8_format"]]
    recipe = getattr(te_recipes, name)(**arguments)
    try:
        check_recipe_support(recipe)
    except AssertionError as error:
        raise ConfigError(f"parallel.precision.recipe={config.recipe}: {error}") from error
    return recipe


def choose_layers(model: nn.Module, *, config: PrecisionConfig, num_blocks: int, kept_in: Any | None) -> None:
    """Take the layers that stay in bf16 out of the recipe.

    Args:
        kept_in: the recipe, where the others' weights are to be kept in it (see keep_in_8_bits).

    Raises:
        ConfigError: the recipe can not divide the weight of a layer that is left to it.
    """
    sides, quantized, total = RECIPES[config.recipe].sides, 0, 0
    for name, layer in model.named_modules():
        if not isinstance(layer, TEColumnLinear | TERowLinear):
            continue
        total += 1
        if stays_bf16(config, name, num_blocks):
            layer.te_quant_params = TEQuantizationParams(
                training_recipe=TEQuantizationRecipe(),  # none: bf16
                evaluation_recipe=None,  # as in training
            )
            continue
        quantized += 1
        layer.kept_in = kept_in
        if any(side % sides for side in layer.weight.shape):
            d_out, d_in = layer.weight.shape
            raise ConfigError(
                f"parallel.precision.recipe={config.recipe} takes weights with sides that are multiples of {sides}, "
                f"but {name} has {d_out} x {d_in} on each rank; add its name to "
                "parallel.precision.bf16_modules, or use another parallel.tp or recipe"
            )
    log.info("%s: %d of %d linears of the blocks here, the others in bf16", config.recipe, quantized, total)


def keep_in_8_bits(model: nn.Module) -> None:
    """Replace the weights that choose_layers left to a recipe by 8-bit ones, before DDP and the optimizer see them.

    As TransformerEngine makes them when it makes a layer, but of the values that are there by now. Each carries these
    values in bf16, on the host, until the optimizer has made its fp32 weights of them.
    """
    for layer in model.modules():
        if not isinstance(layer, TEColumnLinear | TERowLinear) or layer.kept_in is None:
            continue
        weight = layer.weight
        marks, is_trained = marks_of(weight), weight.requires_grad
        layer.primary_weights_in_fp8 = layer.preserve_high_precision_init_val = True
        initial = layer.param_init_meta["weight"]
        layer.param_init_meta["weight"] = dataclasses.replace(
            initial, init_fn=nn.Identity(), get_rng_state_tracker=None
        )
        with quantized_model_init(enabled=True, recipe=layer.kept_in, preserve_high_precision_init_val=True):
            layer.init_fp8_metadata()
            layer.reset_parameters()
        layer.weight.requires_grad_(is_trained)  # it is a new parameter
        put_marks(layer.weight, marks)


class Stateless:
    """A layer without TransformerEngine's extra state, which the native layers do not have.

    It holds fp8_delayed's scales, pickled. They are not in a checkpoint: after a restart they are found again.
    """

    # torch saves extra state of classes whose methods are not its own.
    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


class TEColumnLinear(Stateless, TEColumnParallelLinear):
    """See cosmos_train.parallel.layers.ColumnLinear."""

    kept_in: Any | None = None
    """The recipe in which the weight is kept, where it is not in bf16."""

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh, *, keeps_input: bool) -> None:
        """keeps_input: for the backward pass, instead of a copy in 8 bits."""
        super().__init__(
            d_in,
            d_out,
            config=config,
            init_method=nn.init.zeros_,
            gather_output=False,
            bias=False,
            skip_bias_add=False,
            is_expert=False,
            tp_comm_buffer_name="fc1",  # of buffers as large as the residual stream, one for all columns
            tp_group=mesh.tp,
        )
        if keeps_input:
            set_save_original_input(self)

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in] -> [L, B, d_out / tp]."""
        return super().forward(x_LBD)[0]


class TESharedLinear(TEColumnLinear):
    """A column linear of text, whose length nobody pads: rows of zeros go through the product and are cut off."""

    def __init__(
        self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh, *, keeps_input: bool, rows: int
    ) -> None:
        super().__init__(d_in, d_out, config, mesh, keeps_input=keeps_input)
        self.rows = rows

    def forward(self, x_LBD: Tensor) -> Tensor:
        """[S, B, d_in] -> [S, B, d_out / tp]."""
        num_rows = len(x_LBD)
        return super().forward(pad_rows(x_LBD, math.ceil(num_rows / self.rows) * self.rows))[:num_rows]


class TERowLinear(Stateless, TERowParallelLinear):
    """See cosmos_train.parallel.layers.RowLinear."""

    kept_in: Any | None = None
    """See TEColumnLinear."""

    def __init__(self, d_in: int, d_out: int, config: TransformerConfig, mesh: Mesh, *, keeps_input: bool) -> None:
        """keeps_input: for the backward pass, instead of a copy in 8 bits."""
        super().__init__(
            d_in,
            d_out,
            config=config,
            init_method=nn.init.zeros_,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
            is_expert=False,
            tp_comm_buffer_name="fc2",  # one for all rows
            tp_group=mesh.tp,
        )
        if keeps_input:
            set_save_original_input(self)

    def forward(self, x_LBD: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[L, B, d_in / tp] -> [L, B, d_out]."""
        return super().forward(x_LBD)[0]


class TENorm(Stateless, RMSNorm):
    """See cosmos_train.parallel.layers.RMSNorm."""

    def __init__(self, width: int, config: TransformerConfig, mesh: Mesh) -> None:
        dtype, eps = config.params_dtype, config.layernorm_epsilon
        super().__init__(width, eps=eps, dtype=dtype, device=mesh.device)  # pyright: ignore[reportCallIssue]


class TEAttention(nn.Module):
    """Attention between tokens that ranks may have divided, by TransformerEngine's own exchange where it can.

    It can where no token is padding, since it knows of no padding without a mask, and where a rank has an even number
    of them. Text, and batches that are not divided, are exchanged with nobody. Else SplitAttention exchanges: heads for
    a2a, keys and values for the others. TransformerEngine's kernels are for 16 bits: fp32 is left to torch, and so is
    what has a mask of keys.
    """

    def __init__(self, parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__()
        num_ranks, exchanges_heads = mesh.cp.size(), parallel.cp_comm == "a2a"
        has_kernels = config.params_dtype != torch.float32
        self.attend = TECore(config, mesh) if has_kernels else dot_product_attention
        self.divided: TECore | None = None
        attend_between = self.attend
        if has_kernels and num_ranks > 1:
            self.divided = TECore(config, mesh, cp_comm=parallel.cp_comm)
            if exchanges_heads:
                attend_between = TECore(config, mesh, divide_heads=num_ranks)
        self.between = SplitAttention(attend_between, exchange=exchanges_heads)

    def forward(
        self,
        q_lBNK: Tensor,
        k_SBGK: Tensor,
        v_SBGK: Tensor,
        split: TokenSplit | None = None,
        *,
        key_mask_BS: Tensor | None = None,
    ) -> Tensor:
        """q [l, B, N, K], k and v [S, B, G, K] -> [l, B, N * K]. With a split S is l, a part of the tokens."""
        if key_mask_BS is not None:
            return masked_attention(q_lBNK, k_SBGK, v_SBGK, key_mask_BS)
        if split is None:
            return self.attend(q_lBNK, k_SBGK, v_SBGK)
        if split.context is None:
            return self.attend(q_lBNK, split.all_rows(k_SBGK), split.all_rows(v_SBGK))
        if self.divided is None or split.num_padded != split.num_tokens or len(q_lBNK) % 2:
            return self.between(q_lBNK, k_SBGK, v_SBGK, split)
        return self.divided(q_lBNK, k_SBGK, v_SBGK)


class TECausalAttention(nn.Module):
    """The same where a token sees itself and those before it: by TransformerEngine's own exchange, always.

    Padding stands at the end, where no real token looks, and a causal split gives each rank the two chunks that
    TransformerEngine expects. fp32 is left to torch.
    """

    def __init__(self, parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> None:
        super().__init__()
        self.in_fp32 = SplitCausalAttention(exchange=parallel.cp_comm == "a2a")
        self.whole: TECore | None = None
        self.divided: TECore | None = None
        if config.params_dtype != torch.float32:
            self.whole = TECore(config, mesh, mask=AttnMaskType.causal)
            if mesh.cp.size() > 1:
                self.divided = TECore(config, mesh, mask=AttnMaskType.causal, cp_comm=parallel.cp_comm)

    def forward(self, q_lBNK: Tensor, k_lBGK: Tensor, v_lBGK: Tensor, split: TokenSplit) -> Tensor:
        """q [l, B, N, K], k and v [l, B, G, K] -> [l, B, N * K]."""
        core = self.whole if split.context is None else self.divided
        return self.in_fp32(q_lBNK, k_lBGK, v_lBGK, split) if core is None else core(q_lBNK, k_lBGK, v_lBGK)


class TECore(Stateless, TEDotProductAttention):
    """softmax(q k^T / sqrt(K)) v: q [L, B, N, K], k and v [S, B, G, K] -> [L, B, N * K]."""

    def __init__(
        self,
        config: TransformerConfig,
        mesh: Mesh,
        *,
        mask: AttnMaskType = AttnMaskType.no_mask,
        cp_comm: str | None = None,
        divide_heads: int = 1,
    ) -> None:
        """
        Args:
            mask: causal needs as many keys as queries.
            cp_comm: exchange between context-parallel ranks; none exchanges nothing, whatever the layout is.
            divide_heads: ranks that have divided this rank's heads among them.
        """
        config = copy.copy(config)
        config.num_query_groups = (config.num_query_groups or config.num_attention_heads) // divide_heads
        config.num_attention_heads //= divide_heads
        if cp_comm is None:
            config.context_parallel_size = 1
        super().__init__(
            config,
            layer_number=1,
            attn_mask_type=mask,
            # cross: k and v may have another length
            attention_type="self" if cp_comm or mask is AttnMaskType.causal else "cross",
            cp_comm_type=cp_comm,
            pg_collection=ProcessGroupCollection(tp=mesh.tp, cp=mesh.cp),
        )
        self.mask = mask

    def forward(self, q_LBNK: Tensor, k_SBGK: Tensor, v_SBGK: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See the class."""
        return super().forward(q_LBNK, k_SBGK, v_SBGK, None, attn_mask_type=self.mask)
