"""The diffusion world model as it is trained, saved and converted: the network and its learned uncertainty."""

from typing import Unpack

import torch
from torch import Tensor, nn

from cosmos_train.models.common.uncertainty import LearnedUncertainty
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT, DiTConditions
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import counted_once
from cosmos_train.parallel.engine import EngineConfig, make_layers
from cosmos_train.parallel.lora import NO_ADAPTERS, add_adapters
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import StagePlan, plan_stages
from cosmos_train.parallel.shard import layout_independent_fill, mark_partial_gradients
from cosmos_train.train.config import LoraConfig


class WorldModel(nn.Module):
    """The network and, on the last pipeline stage, the learned uncertainty: what is trained and saved together."""

    def __init__(self, network: DiT, *, learned_uncertainty: bool, cp: int) -> None:
        """cp: context-parallel ranks, all of which compute the uncertainty and the loss."""
        super().__init__()
        self.net, self.cp = network, cp
        self.uncertainty = LearnedUncertainty() if learned_uncertainty and network.stage.is_last else None

    def forward(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BSE: Tensor,
        *,
        hidden_LBD: Tensor | None = None,
        **conditions: Unpack[DiTConditions],
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """(F, u) on the last stage, u none where it is not learned; the residual stream [L, B, D] on others."""
        output = self.net(x_BCTHW, c_noise_B, text_BSE, hidden_LBD=hidden_LBD, **conditions)
        if not self.net.stage.is_last:
            return output
        if self.uncertainty is None:
            return output, None
        return output, counted_once(self.uncertainty(c_noise_B), self.cp)


def build_world_model(
    config: DiTConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    dtype: torch.dtype,
    seed: int,
    learned_uncertainty: bool = True,
    lora: LoraConfig = NO_ADAPTERS,
) -> tuple[list[WorldModel], EngineConfig]:
    """This rank's pieces of the model with its first weights, and megatron-core's view of it."""
    engine_config = transformer_config(
        parallel, dtype=dtype, num_layers=config.num_blocks, width=config.width, num_heads=config.num_heads
    )
    layers, fill = make_layers(parallel, engine_config, mesh), layout_independent_fill(mesh, seed=seed)

    def build(stage: StagePlan) -> WorldModel:
        with mesh.device:
            network = DiT(config, layers, stage)
            piece = WorldModel(network, learned_uncertainty=learned_uncertainty, cp=mesh.cp.size())
        network.init_weights(fill)
        if piece.uncertainty is not None:
            piece.uncertainty.init_weights(fill)
        mark_partial_gradients(network)
        network.to(dtype)  # the uncertainty stays in fp32
        return piece

    pieces = [build(stage) for stage in plan_stages(config.num_blocks, parallel, mesh)]
    add_adapters(pieces, lora, fill, mesh)
    return pieces, engine_config
