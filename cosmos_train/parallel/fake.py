"""This process as any rank of a layout whose other ranks are not there: torch's fake process group, the meta device.

Nothing is sent and nothing is allocated. So the groups are megatron-core's own, whatever the number of ranks, and what
is built in them has the names, shapes and marks that it would have there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from cosmos_train.parallel import cpu, init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.torch_private import fake_store


@contextmanager
def fake_rank(parallel: ParallelConfig, *, rank: int, world_size: int) -> Iterator[Mesh]:
    """The place of one rank of `world_size`, in a process that is in no group yet.

    Raises:
        ConfigError: tp * pp * cp does not divide the world size.
    """
    cpu.activate()  # megatron-core asks CUDA for a device and seeds it, on a machine that has one too
    dist.init_process_group("fake", store=fake_store(), rank=rank, world_size=world_size)
    try:
        yield init.build_groups(parallel, device=torch.device("meta"), seed=0)
    finally:
        init.stop()


def fake_stages(parallel: ParallelConfig, world_size: int) -> Iterator[Mesh]:
    """One rank of each pipeline stage after the other. Each mesh is gone when the next one is asked for."""
    with fake_rank(parallel, rank=0, world_size=world_size) as mesh:
        ranks = dist.get_process_group_ranks(mesh.pp)
    for rank in ranks:
        with fake_rank(parallel, rank=rank, world_size=world_size) as mesh:
            yield mesh
