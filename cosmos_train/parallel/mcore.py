"""The one file that knows megatron-core's TransformerConfig: what of it a run of ours decides, and nothing else."""

import warnings

import torch
from megatron.core.transformer import TransformerConfig

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.precision import megatron_precision


def transformer_config(
    parallel: ParallelConfig,
    *,
    dtype: torch.dtype,
    num_layers: int,
    width: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    norm_eps: float = 1e-6,
) -> TransformerConfig:
    """megatron-core's view of a model.

    Args:
        dtype: of weights, activations and what pipeline stages send.
        width: D of the residual stream; the schedules take the shape of what stages send from it.
        num_kv_heads: key/value heads that groups of query heads share; none: as many as there are query heads.
        head_dim: K; none: D / num_heads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of a default of its own
        return TransformerConfig(
            num_layers=num_layers,
            hidden_size=width,
            num_attention_heads=num_heads,
            num_query_groups=num_kv_heads or num_heads,
            kv_channels=head_dim or width // num_heads,
            tensor_model_parallel_size=parallel.tp,
            pipeline_model_parallel_size=parallel.pp,
            virtual_pipeline_model_parallel_size=parallel.interleaved_chunks,
            context_parallel_size=parallel.cp,
            sequence_parallel=parallel.sequence_parallel,
            params_dtype=dtype,
            pipeline_dtype=dtype,
            bf16=dtype == torch.bfloat16,
            **megatron_precision(parallel.precision),
            normalization="RMSNorm",
            layernorm_epsilon=norm_eps,
            attention_dropout=0.0,
            hidden_dropout=0.0,
            # Models are made where `with torch.device(...)` says and filled by cosmos_train.parallel.shard.
            use_cpu_initialization=True,
            perform_initialization=False,
            # CUDA kernels that only apex or TransformerEngine bring; native_layers uses the first where apex is there.
            gradient_accumulation_fusion=False,
            masked_softmax_fusion=False,
            bias_dropout_fusion=False,
            bias_activation_fusion=False,
            # Interleaved over two ranks, a forward and a backward tensor travel to the same rank at once. Batched, they
            # are matched by order alone and change places: losses and gradients come out wrong, without an error.
            overlap_p2p_comm=parallel.pp_chunks > 1,
            batch_p2p_comm=parallel.pp_chunks == 1,
            # Stages tell each other the shape of what they send: frames, sizes and batches vary.
            variable_seq_lengths=True,
            moe_token_dispatcher_type="alltoall",  # there is no MoE, but the line above is refused with the default
            # Frees a sent tensor's storage while autograd keeps its graph; upstream's own trick, for GPU memory.
            deallocate_pipeline_outputs=False,
        )
