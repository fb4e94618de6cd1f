"""Ranks that see the same samples hand to each other what one of them has made."""

from collections.abc import Callable

import pytest
from support import replicas as support_replicas
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig


@pytest.mark.parametrize(
    ("parallel", "replicas"),
    [
        (ParallelConfig(tp=2, cp=2), [[0, 1, 2, 3]]),
        (ParallelConfig(tp=2, pp=2), [[0, 1, 2, 3]]),
        (ParallelConfig(tp=2), [[0, 1], [2, 3]]),
        (ParallelConfig(cp=2), [[0, 1], [2, 3]]),
        (ParallelConfig(pp=2), [[0, 2], [1, 3]]),
        (ParallelConfig(), [[0], [1], [2], [3]]),
    ],
    ids=str,
)
def test_each_rank_in_turn_hands_round_what_it_has_made(
    ranks: Callable[[int], RankPool], parallel: ParallelConfig, replicas: list[list[int]]
):
    answers = ranks(4).run(support_replicas.handed_round, parallel)
    for members in replicas:
        for rank in members:
            found, data_parallel = answers[rank]
            assert found == [[member, 10 * member] for member in members]
            assert data_parallel == answers[members[0]][1], "they see the same samples"
    assert len({data_parallel for _, data_parallel in answers}) == len(replicas)
