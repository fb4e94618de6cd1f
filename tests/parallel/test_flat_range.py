"""Flat ranges and boxes: one is the other, of every range and box of small tensors."""

import itertools
import math

import pytest
import torch

from cosmos_train.parallel.flat_range import boxes, equal_share, runs

SHAPES = [(), (5,), (3, 4), (2, 3, 4), (4, 1, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_boxes_are_a_flat_range_in_its_order(shape: tuple[int, ...]):
    numbers = torch.arange(math.prod(shape)).view(shape)
    for start, stop in itertools.combinations_with_replacement(range(numbers.numel() + 1), 2):
        found = list(boxes(shape, slice(start, stop)))
        assert len(found) <= max(1, 2 * len(shape) - 1)
        inside = [numbers[tuple(map(slice, begin, map(sum, zip(begin, sizes, strict=True))))] for begin, sizes in found]
        assert list(itertools.chain.from_iterable(box.flatten().tolist() for box in inside)) == list(range(start, stop))
        assert all(len(list(runs(shape, box))) == 1 for box in found), "read at once"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_runs_are_a_box(shape: tuple[int, ...]):
    numbers = torch.arange(math.prod(shape)).view(shape)
    for begin in itertools.product(*map(range, shape)):
        for sizes in itertools.product(*(range(1, size - first + 1) for size, first in zip(shape, begin, strict=True))):
            box = numbers[tuple(slice(first, first + size) for first, size in zip(begin, sizes, strict=True))]
            found = list(runs(shape, (begin, sizes)))
            assert (
                list(itertools.chain.from_iterable(range(run.start, run.stop) for run in found))
                == box.flatten().tolist()
            )
            assert all(one.stop < other.start for one, other in itertools.pairwise(found)), "as long as they can be"


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
def test_equal_shares_are_all_and_equal(num_parts: int):
    line = [(1, 4), (1000, 2), (0, 4), (3, 2), (77, 4), (1, 2)]
    shares = [equal_share(line, part, num_parts) for part in range(num_parts)]
    for number, (count, _) in enumerate(line):
        parts = (range(share[number].start, share[number].stop) for share in shares)
        assert list(itertools.chain.from_iterable(parts)) == list(range(count))
    num_bytes = [
        sum((where.stop - where.start) * size for where, (_, size) in zip(share, line, strict=True)) for share in shares
    ]
    assert max(num_bytes) - min(num_bytes) <= 2 * 4
