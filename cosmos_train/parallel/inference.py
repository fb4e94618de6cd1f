"""Forward passes of a model that is cut into pipeline pieces, without gradients, by megatron-core's own schedules."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor, nn

from cosmos_train.parallel.engine import EngineConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import Stage

InputT = TypeVar("InputT")


class PipelinedForward:
    """This rank's pieces of a model, run so that stages work on different inputs at the same time."""

    def __init__(self, pieces: Sequence[nn.Module], config: EngineConfig, mesh: Mesh) -> None:
        self.mesh = mesh
        self.stages = [Stage(piece, config) for piece in pieces]
        self.run_schedule = get_forward_backward_func()

    @torch.no_grad()
    def __call__(
        self,
        forward: Callable[[nn.Module, InputT, Tensor | None], Tensor],
        inputs: Sequence[InputT],
        like: Sequence[Tensor],
    ) -> list[Tensor]:
        """The last stage's output for each input, on every stage.

        Args:
            forward: (model, input, hidden of the stage before) -> hidden, or the output on the last stage.
            inputs: the same on every stage; their number divides by pp where pieces are interleaved.
            like: a tensor of the shape, type and device of each output; not looked at otherwise.
        """

        def step(data: Any, stage: nn.Module) -> tuple[Tensor, None]:
            return forward(stage, next(data), cast(Stage, stage).hidden), None  # without a loss, outputs are collected

        outputs: list[Tensor] = self.run_schedule(
            forward_step_func=step,
            data_iterator=[iter(inputs) for _ in self.stages],
            model=cast(list[nn.Module], self.stages),
            num_microbatches=len(inputs),
            seq_length=1,  # this and the next are unused: stages tell each other the shapes
            micro_batch_size=1,
            forward_only=True,
        )
        if not self.mesh.is_last_stage:
            outputs = [torch.empty_like(tensor) for tensor in like]
        for output in outputs:
            dist.broadcast(output, group=self.mesh.pp, group_src=self.mesh.pp.size() - 1)
        return outputs
