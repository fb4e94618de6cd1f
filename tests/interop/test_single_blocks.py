"""A network in pieces of one block: together they are the network, and what all need is made once."""

import torch
from torch import Tensor, nn

from cosmos_train.interop.single_blocks import filled, single_blocks


class Store:
    def __init__(self) -> None:
        self.meta = {"net.weight": torch.empty(2, 3, device="meta"), "net.bias": torch.empty(2, device="meta")}

    def read(self, name: str) -> Tensor:
        return torch.full(self.meta[name].shape, 5.0 if name == "net.weight" else 7.0)


def test_each_block_once_with_the_edges_at_the_ends():
    plans = list(single_blocks(3))
    assert [list(plan.blocks) for plan in plans] == [[0], [1], [2]]
    assert [(plan.is_first, plan.is_last) for plan in plans] == [(True, False), (False, False), (False, True)]
    made: list[int] = []

    def make() -> nn.Module:
        made.append(1)
        return nn.Linear(2, 2)

    shared = [plan.shared("time", make) for plan in plans]
    x = torch.ones(2)
    assert len(made) == 1 and all(torch.equal(module(x), shared[0](x)) for module in shared)
    assert not list(shared[1].parameters()), "a borrower has none of its own"


def test_a_piece_is_filled_from_the_store():
    piece = filled(lambda: nn.Linear(3, 2), Store(), prefix="net.")
    assert piece.weight.tolist() == [[5.0] * 3] * 2 and piece.bias.tolist() == [7.0] * 2
