"""Small world models in NVIDIA's layout, and the end of the process group that reading one starts."""

from collections.abc import Iterator

import pytest

from cosmos_train.parallel import init


@pytest.fixture(scope="module", autouse=True)
def groups() -> Iterator[None]:
    yield
    init.stop()
