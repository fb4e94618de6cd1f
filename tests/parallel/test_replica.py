"""One rank of those that share a model's layers makes what all of them need."""

from collections.abc import Callable

import pytest
from support import replicas
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig


@pytest.mark.parametrize("parallel", [ParallelConfig(tp=2, cp=2), ParallelConfig(tp=2), ParallelConfig(cp=2)])
def test_every_rank_has_what_its_replicas_maker_has(ranks: Callable[[int], RankPool], parallel: ParallelConfig):
    answers = ranks(4).run(replicas.handed_round, parallel)
    makers = {dp: rank for dp, makes, rank, _, _ in answers if makes}
    assert len(makers) == 4 // (parallel.tp * parallel.cp) == sum(makes for _, makes, _, _, _ in answers)
    assert all((first, second) == (makers[dp], 10 * makers[dp]) for dp, _, _, first, second in answers)
