"""Random numbers of a seed, the same on every machine and with every version of numpy."""

import hashlib

import numpy as np


class Draws:
    """The random numbers of a seed for one purpose.

    They are raw words of Philox: numpy keeps those the same between its versions (see cosmos_data.sample_plan.plan).
    Another purpose has numbers of its own, so what is drawn for a path never depends on how much a scene has drawn.
    """

    def __init__(self, seed: int, purpose: str) -> None:
        word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
        self._philox = np.random.Philox(key=(word << 64) + seed)

    def uniform(self, *shape: int) -> np.ndarray:
        """Return float64 numbers of that shape, each at least 0 and less than 1."""
        words = self._philox.random_raw(int(np.prod(shape)))
        return ((words >> np.uint64(11)) / 2.0**53).reshape(shape)

    def between(self, low: float, high: float) -> float:
        """Return one number from low to high."""
        return low + (high - low) * float(self.uniform(1)[0])

    def below(self, count: int) -> int:
        """Return a whole number from 0 to count - 1."""
        return int(self.uniform(1)[0] * count)

    def order(self, count: int) -> list[int]:
        """Return the numbers 0 to count - 1 in a random order."""
        return [int(number) for number in np.argsort(self.uniform(count), kind="stable")]
