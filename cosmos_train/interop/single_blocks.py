"""A network of which one block is in memory at a time, so that a model larger than the memory can be run."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from cosmos_train.interop.stores import TensorStore
from cosmos_train.parallel.pipeline import StagePlan

Piece = TypeVar("Piece", bound=nn.Module)


def single_blocks(num_blocks: int) -> Iterator[StagePlan]:
    """Pieces of one block each. What the first one has and all need is lent to the others."""
    lent: dict[str, nn.Module] = {}
    for block in range(num_blocks):
        blocks = range(block, block + 1)
        yield StagePlan(blocks=blocks, is_first=block == 0, is_last=block == num_blocks - 1, lent=lent)


@torch.no_grad()
def filled(build: Callable[[], Piece], ours: TensorStore, prefix: str = "") -> Piece:
    """A piece on the CPU, its parameters read from a store of our names, which begin with `prefix`."""
    with torch.device("cpu"):
        piece = build()
    for name, param in piece.named_parameters():
        param.copy_(ours.read(f"{prefix}{name}"))
    return piece.to("cpu")
