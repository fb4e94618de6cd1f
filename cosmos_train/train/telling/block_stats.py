"""What happens inside each block: root mean squares of its output and of its weights' gradients, in any layout.

Cheap enough for an interval: one reduction of a block's output in each forward pass, one of its gradients at the end,
and one sum over all ranks. Every token of the global batch counts alike on as many ranks, so sums over all ranks have
the ratio that one process has; blocks are numbered in the whole model.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.shard import partition_dim
from cosmos_train.parallel.step_metrics import Ratio

BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)(?:\.|$)")
"""A block's number in the names of its module and parameters."""
KINDS = ("activation", "gradient")


class BlockStats:
    """Observes the blocks of a model while `active`. Models without numbered blocks, such as tokenizers, have none."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.active = engine, False
        for number, block in self._blocks():
            block.register_forward_hook(_Observer(self, number))
        numbers = torch.tensor([number for number, _ in self._blocks()] + [-1], device=engine.mesh.device).max()
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=engine.mesh.world)
        self.num_blocks = int(numbers) + 1
        self.sums = self._zeros()

    def start(self) -> None:
        """Observe the step that follows."""
        self.active, self.sums = self.num_blocks > 0, self._zeros()

    def add(self, number: int, kind: str, values: Tensor, weights: Tensor | None = None) -> None:
        """Count the squares of values of a block, each with a weight of 0 or 1."""
        squares = values.detach().float().square()
        counted = squares.new_tensor(squares.numel()) if weights is None else weights.expand_as(squares).sum()
        total = squares.sum() if weights is None else (squares * weights).sum()
        self.sums[number, KINDS.index(kind)] += torch.stack((total, counted)).double()

    def add_gradients(self) -> None:
        """Count the gradients once they are summed over the replicas: before clipping, each element on one rank."""
        if not self.active:
            return
        mesh = self.engine.mesh
        params = dict(itertools.chain.from_iterable(piece.named_parameters() for piece in self.engine.pieces))
        for name, gradient in optimizer_state.gradients(self.engine.optimizer, self.engine.pieces).items():
            number = BLOCK.search(name)
            is_copy = partition_dim(params[name]) is None and mesh.tp.rank() > 0
            if number is not None and not is_copy:
                self.add(int(number[1]), "gradient", gradient)

    def finish(self) -> dict[str, Ratio[float]]:
        """Return blocks/activation_rms/03 and so on of the step that was observed, the same on every rank.

        Empty of other steps; so they are ratios, which are averaged over the steps that have them.
        """
        if not self.active:
            return {}
        self.active = False
        dist.all_reduce(self.sums, group=self.engine.mesh.world)
        rms = [[math.sqrt(total / count) for total, count in block] for block in self.sums.tolist()]
        found: dict[str, Ratio[float]] = {}
        for number, kind in itertools.product(range(self.num_blocks), KINDS):
            found[f"blocks/{kind}_rms/{number:02d}"] = Ratio(rms[number][KINDS.index(kind)], 1.0)
        return found

    def _blocks(self) -> Iterator[tuple[int, nn.Module]]:
        for piece in self.engine.pieces:
            for name, module in piece.named_modules():
                found = BLOCK.search(name)
                if found is not None and found.end() == len(name):
                    yield int(found[1]), module

    def _zeros(self) -> Tensor:
        return torch.zeros(self.num_blocks, len(KINDS), 2, dtype=torch.float64, device=self.engine.mesh.device)


class _Observer:
    """A forward hook of block `number`: (x [l, B, D], conditioning with its `split`) -> [l, B, D].

    A block that is run again in the backward pass is counted again, as are all others, with the same values.
    """

    def __init__(self, stats: BlockStats, number: int) -> None:
        self.stats, self.number = stats, number

    def __call__(self, _block: nn.Module, inputs: tuple[Any, ...], output_lBD: Tensor) -> None:
        if self.stats.active:
            split = inputs[1].split
            is_token = split.enter(torch.ones(split.num_tokens, 1, 1, device=output_lBD.device))  # 0 at padding
            self.stats.add(self.number, "activation", output_lBD, is_token)
