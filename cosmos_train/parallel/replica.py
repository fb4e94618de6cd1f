"""What the ranks that share a model's layers (tp, cp) must have alike, and one of them makes: encoded windows.

Pipeline stages are not among them: one waits for another's activations where the other would wait for it here.
"""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from cosmos_train.parallel.mesh import Mesh


def makes_batches(mesh: Mesh) -> bool:
    """Whether this rank is the one that does the work."""
    return mesh.tp.rank() == mesh.cp.rank() == 0


def broadcast(tensors: Sequence[Tensor], mesh: Mesh) -> None:
    """In place, from the rank that makes batches: along tp, and from there along cp."""
    for group, has_it in ((mesh.tp, mesh.cp.rank() == 0), (mesh.cp, True)):
        if has_it and group.size() > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group_src=0, group=group)
