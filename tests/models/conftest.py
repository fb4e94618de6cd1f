"""The layout of one process, for models that are built in the tests' own process."""

from collections.abc import Iterator

import pytest

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """One process; its groups are gone when the module's tests are over."""
    yield init.start(ParallelConfig(), seed=0)
    init.stop()
