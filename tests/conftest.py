"""Fixtures that several folders of tests share."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other's processes on few cores
os.environ.setdefault("WANDB_MODE", "offline")

from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig


def pytest_make_parametrize_id(val: object) -> str | None:
    """A layout is called by what it divides: `tp=2 sequence_parallel=True`."""
    if not isinstance(val, ParallelConfig):
        return None
    default = asdict(ParallelConfig())
    differing = (f"{key}={value}" for key, value in asdict(val).items() if value != default[key])
    return " ".join(differing) or "one process"


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
