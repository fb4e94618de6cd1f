"""Counter-based draws, and orders that are closed forms: what a sample plan is made of."""

import hashlib
import math
import struct
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cosmos_data.errors import DataError

Key = tuple[int, int]

SAMPLE_ORDER = 2
"""Raised when another item stands at an index of the same plan. A run that began in another order is not gone on with:
it would see some samples twice and others never."""

WINDOW = 1
"""The last word of Philox's counter, which keeps kinds of draw apart."""

ROUNDS = 8
"""Of the permutation. Luby and Rackoff (1988) show 4 to be as good as a random one where halves are large; more even
out small ones."""


class IndexPlan:
    """The order in which a run visits `num_items` things: a permutation of its own per epoch.

    It is a keyed permutation and no list: an item costs the same at any place of any epoch, however many there are.
    """

    def __init__(self, num_items: int, digest: str, seed: int) -> None:
        if num_items < 1:
            raise DataError("there is nothing to train on: no items; check the manifest and its split")
        self.num_items = num_items
        self.digest = digest
        self.seed = seed
        self._key = hashlib.sha256(f"{digest}/{seed}".encode()).digest()
        self._num_rows = math.isqrt(num_items - 1) + 1
        self._num_columns = -(-num_items // self._num_rows)

    def item(self, index: int, attempt: int = 0) -> int:
        """Return the item of sample `index`; with an attempt, the item that stands so many places further in the same
        epoch."""
        epoch, place = divmod(index, self.num_items)
        place = (place + attempt) % self.num_items
        while True:
            place = self._shuffled(place, epoch)
            if place < self.num_items:  # the table below has a few cells more: go on from one of these
                return place

    def _shuffled(self, cell: int, epoch: int) -> int:
        """Return a permutation of the cells of a table as near to a square as holds all items: a Feistel network, whose
        rounds move a cell along its column by an amount that depends on the column, then along its row likewise."""
        row, column = divmod(cell, self._num_columns)
        for number in range(ROUNDS):
            if number % 2:
                row = (row + self._amount(epoch, number, column)) % self._num_rows
            else:
                column = (column + self._amount(epoch, number, row)) % self._num_columns
        return row * self._num_columns + column

    def _amount(self, epoch: int, number: int, line: int) -> int:
        words = struct.pack("<QQQ", epoch, number, line)
        return int.from_bytes(hashlib.blake2b(words, digest_size=8, key=self._key).digest(), "little")


class Alternation:
    """Takes turns between `len(weights)` things, each as often as its weight says, as evenly as that allows."""

    def __init__(self, weights: Sequence[Fraction]) -> None:
        left, self._shares = sum(weights, Fraction(0)), list[Fraction]()
        for weight in weights[:-1]:
            self._shares.append(weight / left if left else Fraction(0))
            left -= weight

    def turn(self, n: int) -> tuple[int, int]:
        """Return (whose turn the n-th is, how many turns it had before)."""
        for which, share in enumerate(self._shares):
            before = n * share.numerator // share.denominator
            if (n + 1) * share.numerator // share.denominator > before:
                return which, before
            n -= before
        return len(self._shares), n

    def nth_turn(self, which: int, number: int) -> int:
        """Return the turn that has so many of the same thing before it: `turn` the other way round."""
        if which < len(self._shares):
            share = self._shares[which]
            number = -(-(number + 1) * share.denominator // share.numerator) - 1
        for share in reversed(self._shares[:which]):
            others = 1 - share
            number = number * others.denominator // others.numerator
        return number


def rank_slice(step: int, global_batch_size: int, rank: int, num_ranks: int) -> range:
    """Return the sample indices of one rank in one step. The ranks' slices, in order, make up the global batch, which
    is the same for every number of ranks."""
    if global_batch_size % num_ranks != 0:
        raise DataError(
            f"global_batch_size={global_batch_size} is not divisible by the {num_ranks} data-parallel ranks;"
            f" use a multiple of {num_ranks}"
        )
    assert 0 <= rank < num_ranks, f"rank {rank} of {num_ranks}"
    per_rank = global_batch_size // num_ranks
    first = step * global_batch_size + rank * per_rank
    return range(first, first + per_rank)


def philox_key(digest: str, seed: int) -> Key:
    sha256 = hashlib.sha256(f"{digest}/{seed}".encode()).digest()
    return int.from_bytes(sha256[:8], "little"), int.from_bytes(sha256[8:16], "little")


def philox_words(key: Key, index: int, attempt: int, kind: int, *, count: int) -> np.ndarray:
    """Return `count` uniform uint64. Philox itself counts in the first word, so streams of different indices never
    meet."""
    counter = np.array([0, index, attempt, kind], dtype=np.uint64)
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter).random_raw(count)


def below(word: np.uint64, bound: int) -> int:
    """Return a number that is uniform in [0, bound); the bias is below bound / 2**64."""
    return (int(word) * bound) >> 64
