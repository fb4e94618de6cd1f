"""Commands run in the tests' own process."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def leave_groups() -> Iterator[None]:
    """A command that fails leaves its groups to the end of its process, and other modules need a process without."""
    yield
    if "cosmos_train.parallel.init" in sys.modules:
        from cosmos_train.parallel import init

        init.stop()
