"""Pieces of a model without gradients: every stage gets the last one's outputs, of whatever shapes."""

from collections.abc import Callable

import pytest
from support import replicas
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig


@pytest.mark.parametrize(("pp", "factor"), [(1, 2), (2, 6)])
def test_every_rank_gets_every_output(ranks: Callable[[int], RankPool], pp: int, factor: int):
    for answer in ranks(2).run(replicas.through_stages, ParallelConfig(pp=pp)):
        assert answer == [[2, factor + 1], [3, 10 * factor + 1]]
