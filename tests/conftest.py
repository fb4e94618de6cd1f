"""Fixtures that several folders of tests share."""

import os
from collections.abc import Callable, Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other's processes on few cores
os.environ.setdefault("WANDB_MODE", "offline")

from support.ranks import RankPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], RankPool]]:
    """ranks(n): the shared pool of n gloo processes, started at its first use."""
    pools: dict[int, RankPool] = {}

    def pool(num_ranks: int) -> RankPool:
        if num_ranks not in pools or not pools[num_ranks].is_alive:
            pools[num_ranks] = RankPool(num_ranks)
        return pools[num_ranks]

    yield pool
    for started in pools.values():
        started.close()
