"""Which part of a model a pipeline rank holds, what it recomputes, and the wrapper that megatron-core's schedules see.

A model is cut into pp * pp_chunks pieces of consecutive blocks; piece i is on pipeline rank i % pp. With one piece a
rank the schedule is 1F1B, with more it is the interleaved one (arXiv 2104.04473).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from megatron.core.enums import ModelType
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import mark_shared_over_stages

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """The cut of a model at its edge: which blocks, and whether the first and last layers, are this piece's."""

    blocks: range
    is_first: bool = True
    is_last: bool = True
    num_stages: int = 1
    recompute: Literal["none", "selective", "full"] = "none"
    lent: dict[str, nn.Module] = field(default_factory=dict)
    """Shared modules that the first piece on this rank owns; its other pieces borrow them."""

    def shared(self, name: str, make: Callable[[], ModuleT]) -> "ModuleT | Borrowed":
        """A module that every pipeline rank has a copy of: gradients are summed over them, the norm counts it once."""
        if name in self.lent:
            return Borrowed(self.lent[name])
        self.lent[name] = module = make()
        if self.num_stages > 1:
            mark_shared_over_stages(module, is_owner=self.is_first)
        return module

    def run_block(self, block: nn.Module, x_LBD: Tensor, cond: Any, checkpoint: Callable[..., Tensor]) -> Tensor:
        """Run a block, keeping its activations or, by the maker's checkpoint, recomputing them in the backward pass."""
        if self.recompute == "full" and torch.is_grad_enabled():
            return checkpoint(block, x_LBD, cond)
        return block(x_LBD, cond)

    def through(self, cheap: Callable[..., Tensor], costly: Callable[[Tensor], Tensor], *args: Tensor) -> Tensor:
        """costly(cheap(*args)). Under selective recompute, what cheap gives is not kept but computed again.

        For norms and activation functions before a linear, which would keep their output for its own gradient.
        """
        if self.recompute != "selective" or not torch.is_grad_enabled():
            return costly(cheap(*args))
        # None: what is computed again has no product in FP8. Upstream takes even False for a yes.
        forgotten = CheckpointWithoutOutput(fp8=None)  # pyright: ignore[reportArgumentType]
        output = costly(forgotten.checkpoint(cheap, *args))
        forgotten.discard_output_and_register_recompute(output)
        return output


class Borrowed(nn.Module):
    """A module of another piece on this rank: used here, but trained, saved and counted there."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._owner = (owner,)  # inside a tuple, where torch does not look for submodules

    def forward(self, *args: Any) -> Any:
        """The owner's forward."""
        return self._owner[0](*args)


def plan_stages(num_blocks: int, parallel: ParallelConfig, mesh: Mesh) -> list[StagePlan]:
    """This rank's pieces of the model, from first to last.

    Raises:
        ConfigError: a piece would be left without blocks.
    """
    counts = parallel.blocks_per_piece(num_blocks)
    lent: dict[str, nn.Module] = {}
    return [
        StagePlan(
            blocks=range(sum(counts[:piece]), sum(counts[: piece + 1])),
            is_first=piece == 0,
            is_last=piece == len(counts) - 1,
            num_stages=parallel.pp,
            recompute=parallel.recompute,
            lent=lent,
        )
        for piece in range(mesh.pp.rank(), len(counts), parallel.pp)
    ]


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
