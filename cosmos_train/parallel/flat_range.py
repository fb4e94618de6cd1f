"""Flat ranges: a part of a tensor, or of many in one line, as consecutive elements in row-major order.

The distributed optimizer gives each rank such a part of its parameters. A checkpoint's files know boxes: a flat range
is a few of them, at most 2 n - 1 of a tensor of n dimensions.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where it begins and how long it is, by dimension."""


def boxes(shape: Sequence[int], where: slice) -> Iterator[Box]:
    """The boxes of a tensor that make up the flat range, in its order: the end of a row, whole rows, a row's beginning.

    Args:
        where: start and stop, both given.
    """
    if where.start >= where.stop:
        return
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    first, last = where.start // row, where.stop // row
    if first == last:
        yield from _in_row(first, shape, where.start - first * row, where.stop - first * row)
        return
    if where.start % row:
        yield from _in_row(first, shape, where.start % row, row)
        first += 1
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    yield from _in_row(last, shape, 0, where.stop % row)


def _in_row(row: int, shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    for offsets, sizes in boxes(shape[1:], slice(start, stop)):
        yield (row, *offsets), (1, *sizes)


def runs(shape: Sequence[int], box: Box) -> Iterator[slice]:
    """The flat ranges that make up a box of a tensor, in order and as long as they can be: what `boxes` undoes."""
    offsets, sizes = box
    outer = len(shape)  # dimensions after the first `outer` ones lie in the box from end to end
    while outer and sizes[outer - 1] == shape[outer - 1]:
        outer -= 1
    outer = max(0, outer - 1)
    length, begin = math.prod(sizes[outer:]), [0]
    for size, offset, count in zip(shape[:outer], offsets[:outer], sizes[:outer], strict=True):
        begin = [before * size + offset + number for before, number in itertools.product(begin, range(count))]
    inner = math.prod(shape[outer:])
    skipped = offsets[outer] * math.prod(shape[outer + 1 :]) if shape else 0
    for number in begin:
        yield slice(number * inner + skipped, number * inner + skipped + length)


def equal_share(num_bytes: Sequence[tuple[int, int]], part: int, num_parts: int) -> list[slice]:
    """The flat range of each tensor that is in one of equally long parts of the line of all of them.

    Args:
        num_bytes: (elements, bytes of an element) of each tensor, in the order of the line.
    """
    total = sum(count * size for count, size in num_bytes)
    cuts = total * part // num_parts, total * (part + 1) // num_parts
    found, begin = [], 0
    for count, size in num_bytes:
        start, stop = (min(max(0, -(-(cut - begin) // size)), count) for cut in cuts)
        found.append(slice(start, stop))
        begin += count * size
    return found
