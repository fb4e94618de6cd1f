"""Which part of a model a pipeline stage holds, and the wrapper that megatron-core's schedules talk to."""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.utils.checkpoint
from megatron.core.enums import ModelType
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.mesh import Mesh

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """The cut of a model at its edge: which blocks, and whether the first and last layers, are this stage's."""

    blocks: range
    is_first: bool = True
    is_last: bool = True
    num_stages: int = 1
    recompute: Literal["none", "full"] = "none"

    def shared(self, module: ModuleT) -> ModuleT:
        """Mark a module that every stage has a copy of: gradients are summed over stages, the norm counts it once."""
        if self.num_stages > 1:
            for param in module.parameters():
                param.shared_over_stages = True  # pyright: ignore[reportAttributeAccessIssue] read by the engine
                param.shared = not self.is_first  # pyright: ignore[reportAttributeAccessIssue] by megatron-core's norm
        return module

    def run_block(self, block: nn.Module, x_LBD: Tensor, cond: Any) -> Tensor:
        """Run a block, keeping its activations or recomputing them in the backward pass."""
        if self.recompute == "full" and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(block, x_LBD, cond, use_reentrant=False)
        return block(x_LBD, cond)


def plan_stage(num_blocks: int, mesh: Mesh, *, recompute: Literal["none", "full"] = "none") -> StagePlan:
    """Consecutive blocks, as even as can be; the first stages take one more where they do not divide."""
    stages, stage = mesh.pp.size(), mesh.pp.rank()
    if num_blocks < stages:
        raise ConfigError(
            f"parallel.pp={stages} is more than the {num_blocks} blocks of the model; use a pp of 1 to {num_blocks}"
        )
    each, extra = divmod(num_blocks, stages)
    start = stage * each + min(stage, extra)
    return StagePlan(
        blocks=range(start, start + each + (stage < extra)),
        is_first=mesh.is_first_stage,
        is_last=mesh.is_last_stage,
        num_stages=stages,
        recompute=recompute,
    )


class Stage(nn.Module):
    """A model as megatron-core's schedules and DDP see it: with a config, and with an input from the stage before."""

    model_type = ModelType.encoder_or_decoder

    def __init__(self, model: nn.Module, config: TransformerConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.hidden: Tensor | None = None

    def set_input_tensor(self, hidden: Tensor | list[Tensor | None] | None) -> None:
        """Called by the schedule before forward; None on the first stage."""
        self.hidden = hidden[0] if isinstance(hidden, list) else hidden

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward."""
        return self.model(*args, **kwargs)
