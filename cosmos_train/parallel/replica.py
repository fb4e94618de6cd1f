"""Ranks that see the same samples (tp, cp, pp) hand to each other what one of them has made."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_train.parallel.mesh import Mesh

groups: list[dist.ProcessGroup] = []
"""Groups that were made here. parallel.init leaves them."""


class Replica:
    """The ranks that hold the model together and see the same samples. Made on all ranks of the run together.

    They have a group of their own, in main memory: what is read for a step is handed over while another one computes,
    and no pipeline stage is held up by what another one waits for.
    """

    def __init__(self, mesh: Mesh) -> None:
        per_stage, num_stages = mesh.tp.size() * mesh.cp.size(), mesh.pp.size()
        self._group = None
        if per_stage * num_stages > 1:
            self._group = _own_group(per_stage, num_stages)
            groups.append(self._group)

    @property
    def rank(self) -> int:
        """Return this process's rank among them."""
        return 0 if self._group is None else self._group.rank()

    @property
    def size(self) -> int:
        """Return how many they are."""
        return 1 if self._group is None else self._group.size()

    def hand_over(self, tensors_on_cpu: Sequence[Tensor], maker_rank: int) -> None:
        """Fill the tensors, in place, with those of the rank that has made them.

        All of them call it in one order, in whatever thread.
        """
        if self._group is not None:
            for tensor in tensors_on_cpu:
                if tensor.numel():
                    dist.broadcast(tensor, group_src=maker_rank, group=self._group)


def _own_group(per_stage: int, num_stages: int) -> dist.ProcessGroup:
    """In megatron-core's order of ranks: tp runs fastest, then cp, dp and pp."""
    ranks = torch.arange(dist.get_world_size()).view(num_stages, -1, per_stage).transpose(0, 1).flatten(1).tolist()
    # Every rank takes part in the making of every group, in one order, also of those that it is not in.
    made = [dist.new_group(members, backend="gloo") for members in ranks]
    own = made[next(number for number, members in enumerate(ranks) if dist.get_rank() in members)]
    assert isinstance(own, dist.ProcessGroup)
    return own
