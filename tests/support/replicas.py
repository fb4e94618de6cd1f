"""What tests ask of each rank about the ranks of its replica: what is handed round, and pieces run in turn."""

import torch
from torch import Tensor, nn

from cosmos_train.parallel import init, replica
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.inference import PipelinedForward
from cosmos_train.parallel.mcore import transformer_config


def handed_round(parallel: ParallelConfig) -> tuple[list[list[float]], int]:
    """(what this rank is handed by each rank of its replica in turn, its place among data-parallel ranks)."""
    mesh = init.start(parallel, seed=0)
    group = replica.Replica(mesh)
    mine, found = float(mesh.world.rank()), list[list[float]]()
    for maker_rank in range(group.size):
        tensors = [torch.tensor([mine]), torch.zeros(2, 0), torch.tensor([10 * mine])]
        group.hand_over(tensors, maker_rank)
        found.append([tensors[0].item(), tensors[2].item()])
    return found, mesh.dp.rank()


class Scaled(nn.Module):
    """x times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def through_stages(parallel: ParallelConfig) -> list[list[float]]:
    """Of inputs of two shapes: stage k multiplies by k + 2, the last one adds 1 besides."""
    mesh = init.start(parallel, seed=0)
    config = transformer_config(parallel, dtype=torch.float32, num_layers=2, width=4, num_heads=1)
    piece = Scaled(mesh.pp.rank() + 2.0)

    def forward(model: nn.Module, given: Tensor, hidden: Tensor | None) -> Tensor:
        assert (hidden is None) == (mesh.pp.rank() == 0)
        y = model(given if hidden is None else hidden)
        return y + 1 if mesh.is_last_stage else y

    inputs = [torch.full((2, 1, 4), 1.0), torch.full((3, 1, 4), 10.0)]
    outputs = PipelinedForward([piece], config, mesh)(forward, inputs, like=inputs)
    assert not any(output.requires_grad for output in outputs)
    return [[float(output.shape[0]), output.unique().item()] for output in outputs]
