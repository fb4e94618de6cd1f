"""A rank's pieces of the autoregressive model, with first weights."""

import torch

from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.medusa import MedusaWorldAR
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import EngineConfig, make_layers
from cosmos_train.parallel.lora import NO_ADAPTERS, add_adapters
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import StagePlan, plan_stages
from cosmos_train.parallel.shard import layout_independent_fill, mark_partial_gradients
from cosmos_train.train.config import LoraConfig


def build_world_ar(
    config: WorldARConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    dtype: torch.dtype,
    seed: int,
    lora: LoraConfig = NO_ADAPTERS,
) -> tuple[list[WorldAR], EngineConfig]:
    """This rank's pieces of the model, and megatron-core's view of it."""
    engine_config = megatron_config(config, parallel, dtype=dtype)
    layers, fill = make_layers(parallel, engine_config, mesh), layout_independent_fill(mesh, seed=seed)

    def build(stage: StagePlan) -> WorldAR:
        with mesh.device:
            piece = (MedusaWorldAR if config.medusa_heads else WorldAR)(config, layers, stage)
        piece.init_weights(fill)
        mark_partial_gradients(piece, but=piece.action)  # cross-attention sums its keys' and values' gradients
        return piece.to(dtype)

    pieces = [build(stage) for stage in plan_stages(config.num_blocks, parallel, mesh)]
    add_adapters(pieces, lora, fill, mesh)
    return pieces, engine_config


def megatron_config(config: WorldARConfig, parallel: ParallelConfig, *, dtype: torch.dtype) -> EngineConfig:
    """megatron-core's view of the model."""
    return transformer_config(
        parallel,
        dtype=dtype,
        num_layers=config.num_blocks,
        width=config.width,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        norm_eps=config.norm_eps,
    )
