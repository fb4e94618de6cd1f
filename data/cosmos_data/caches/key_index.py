"""Where keys lie, as sorted arrays of numbers and not as a dictionary: 16 bytes a key, and no Python object.

Keys are added by the shard, and a shard's keys are a sorted run. A run is merged into the one before it where that is
not twice as long: so the number of runs, and how often a key is merged, grow as the logarithm of the number of keys.
A look-up is a binary search in each run.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    """Places in the order of their keys: of each the key's first 8 bytes, the shard's number, and the row there."""

    starts_N: np.ndarray
    shards_N: np.ndarray
    rows_N: np.ndarray


class KeyIndex:
    """Holds the first 8 bytes of each SHA-256: whoever finds a place compares the whole key there.

    One thread may use it at a time.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return sum(len(run.starts_N) for run in self.runs)

    @property
    def num_bytes(self) -> int:
        """Return the memory that all runs take."""
        return sum(array.nbytes for array in chain.from_iterable(self.runs))

    def add(self, shard: int, starts_N: np.ndarray) -> None:
        """Add a new shard's keys in the order of its rows: of each its first 8 bytes, uint64."""
        rows_N = np.argsort(starts_N, kind="stable").astype(np.uint32)
        run = Run(starts_N[rows_N], np.full(len(starts_N), shard, np.uint32), rows_N)
        while self.runs and len(self.runs[-1].starts_N) < 2 * len(run.starts_N):
            run = self._merged(self.runs.pop(), run)
        if len(run.starts_N):
            self.runs.append(run)

    def drop(self, shard: int) -> None:
        """Find a shard's keys no more. They take room until their run is merged."""
        self._gone.add(shard)

    def find(self, start: int) -> Iterator[tuple[int, int]]:
        """Yield (shard, row) of each key that begins with these 8 bytes; two keys may."""
        wanted = np.uint64(start)
        for run in self.runs:
            place = int(np.searchsorted(run.starts_N, wanted))
            while place < len(run.starts_N) and run.starts_N[place] == wanted:
                shard = int(run.shards_N[place])
                if shard not in self._gone:
                    yield shard, int(run.rows_N[place])
                place += 1

    def _merged(self, one: Run, two: Run) -> Run:
        starts_N, shards_N, rows_N = (np.concatenate(pair) for pair in zip(one, two, strict=True))
        order = np.argsort(starts_N, kind="stable")
        if self._gone:
            order = order[~np.isin(shards_N[order], list(self._gone))]
        return Run(starts_N[order], shards_N[order], rows_N[order])
