"""How tokens are taken apart: what each rank gets, and that it comes back in order. Exchanges are in test_engine.py."""

import dataclasses
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.context import TokenSplit, split_tokens
from cosmos_train.parallel.mesh import Mesh


def mesh_of(*, tp: int = 1, cp: int = 1, rank: int = 0) -> Mesh:
    """As far as a split asks it: rank counts tp first, then cp."""
    sizes = {"tp": (tp, rank % tp), "cp": (cp, rank // tp), "tp_cp": (tp * cp, rank)}
    groups = {
        name: SimpleNamespace(size=lambda size=size: size, rank=lambda place=place: place)
        for name, (size, place) in sizes.items()
    }
    return cast(Mesh, SimpleNamespace(**groups))


def tokens_of(split: TokenSplit) -> list[int]:
    """The tokens of a rank's runs, counted from 0."""
    return list(chain.from_iterable(split.runs))


def rows_of_ranks(num_tokens: int, parallel: ParallelConfig, **options: Any) -> list[list[int]]:
    """The tokens, counted from 1, in every rank's rows; 0 is padding."""
    tokens = torch.arange(1, num_tokens + 1)[:, None]
    tp, cp = parallel.tp, parallel.cp
    splits = [
        split_tokens(num_tokens, parallel, mesh_of(tp=tp, cp=cp, rank=rank), **options) for rank in range(tp * cp)
    ]
    return [split.enter(tokens)[:, 0].tolist() for split in splits]


def test_tokens_are_cut_in_order_where_attention_is_not_causal():
    assert rows_of_ranks(7, ParallelConfig(cp=2)) == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert rows_of_ranks(4, ParallelConfig(tp=2, sequence_parallel=True)) == [[1, 2], [3, 4]]


def test_causal_ranks_have_a_chunk_of_the_front_and_one_of_the_end():
    assert rows_of_ranks(8, ParallelConfig(cp=2), causal=True) == [[1, 2, 7, 8], [3, 4, 5, 6]]
    assert rows_of_ranks(7, ParallelConfig(cp=2), causal=True) == [[1, 2, 7, 0], [3, 4, 5, 6]]
    assert rows_of_ranks(6, ParallelConfig(cp=3), causal=True) == [[1, 6], [2, 5], [3, 4]]
    found = rows_of_ranks(7, ParallelConfig(tp=2, cp=2, sequence_parallel=True), causal=True)
    assert found == [[1, 2], [7, 0], [3, 4], [5, 6]]


@pytest.mark.parametrize("cp", [1, 2, 3, 4])
@pytest.mark.parametrize("num_tokens", [5, 24, 45])
def test_causal_ranks_have_the_same_work(num_tokens: int, cp: int):
    """A query's work is the number of tokens it sees, padding counted."""
    parallel = ParallelConfig(cp=cp)
    splits = [split_tokens(num_tokens, parallel, mesh_of(cp=cp, rank=rank), causal=True) for rank in range(cp)]
    work = [sum(token + 1 for token in tokens_of(split)) for split in splits]
    assert len(set(work)) == 1
    seen = sorted(chain.from_iterable(map(tokens_of, splits)))
    assert seen == list(range(splits[0].num_padded)) and splits[0].num_padded - num_tokens < 2 * cp


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_tokens", [12, 13, 45])
def test_runs_are_the_rows(num_tokens: int, causal: bool):
    parallel = ParallelConfig(cp=3)
    for rank, rows in enumerate(rows_of_ranks(num_tokens, parallel, causal=causal)):
        split = split_tokens(num_tokens, parallel, mesh_of(cp=3, rank=rank), causal=causal)
        places = tokens_of(split)
        assert rows == [token + 1 if token < num_tokens else 0 for token in places]


@pytest.mark.parametrize("causal", [False, True])
def test_what_ranks_hold_comes_back_in_order(causal: bool):
    """By the two functions between which the ranks exchange."""
    split = split_tokens(13, ParallelConfig(cp=4), mesh_of(cp=4), align=8, causal=causal)
    assert split.num_padded == 32
    x = torch.arange(26.0).reshape(13, 2)
    assert torch.equal(split._by_token(split._by_rank(x)), x)


def test_a_batch_below_the_limit_is_whole_everywhere():
    parallel = ParallelConfig(cp=2, cp_min_tokens=10)
    split = split_tokens(9, parallel, mesh_of(cp=2), causal=True)
    assert split.context is None and split.repeats == 2 and split.runs == [range(9)]
    divided = split_tokens(10, parallel, mesh_of(cp=2), causal=True)
    assert divided.context is not None and divided.repeats == 1


def test_without_groups_nothing_happens():
    split = TokenSplit(num_tokens=3, num_padded=3, context=None, sequence=None, both=None, repeats=1)
    x = torch.randn(3, 2)
    for whole in (split, dataclasses.replace(split, is_balanced=True)):
        assert all(torch.equal(move(x), x) for move in (whole.enter, whole.leave, whole.leave_context, whole.all_rows))
