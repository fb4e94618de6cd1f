"""What the ranks that see the same samples (tp, cp, pp) must have alike, and one of them has made."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from cosmos_train.parallel.mesh import Mesh


def hand_over(tensors_on_cpu: Sequence[Tensor], mesh: Mesh, maker_rank: int) -> None:
    """Fill the tensors, in place, with those of the rank that has made them (its rank in mesh.replica).

    All ranks of the replica call it in one order, each in a thread of its own if it likes: nothing else is sent over
    this group, so no step waits for it, and a pipeline stage is not held up by what another one waits for.
    """
    if mesh.replica.size() > 1:
        for tensor in tensors_on_cpu:
            if tensor.numel():
                dist.broadcast(tensor, group_src=maker_rank, group=mesh.replica)
