"""Weights that are not finite: nothing of them is saved, and no run that has them is done."""

import itertools
from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch import Tensor

from cosmos_tok.number_formats import num_not_finite
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import plain


def name_not_finite(tensors: Mapping[str, Tensor], mesh: Mesh) -> str:
    """Which of the model's tensors hold NaN or infinity, in words, the same on every rank; empty where none does.

    Args:
        tensors: this rank's part of the model, by name.
    """
    mine = [(name, num_not_finite(plain(tensor).detach()), tensor.numel()) for name, tensor in tensors.items()]
    found: list[Sequence[tuple[str, int, int]]] = [[] for _ in range(mesh.world.size())]
    dist.all_gather_object(found, [one for one in mine if one[1]], group=mesh.world)
    bad = {name: (count, size) for name, count, size in itertools.chain.from_iterable(found)}
    if not bad:
        return ""
    first, (count, size) = next(iter(bad.items()))
    more = f", and of {len(bad) - 1} other tensors" if len(bad) > 1 else ""
    return f"{count:,} of {size:,} numbers of {first}{more} are not finite (NaN or infinity)"
