"""Memory for decoded batches that is used again: fresh memory costs a page fault for every 4 KiB that is written to it,
which for a batch may take as long as a tenth of its decoding."""

import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Hands out tensors whose memory comes back when neither they nor any view of them is left. For any number of
    threads.

    max_idle: how many blocks of memory are kept for later.
    """

    def __init__(self, max_idle: int = 2) -> None:
        self._idle: deque[np.ndarray] = deque(maxlen=max_idle)

    def empty(self, shape: Sequence[int]) -> Tensor:
        """Give a uint8 tensor of that shape, with anything in it."""
        num_bytes = math.prod(shape)
        memory = self._take(num_bytes)
        # An array of its own, which the tensor's memory holds on to as long as anybody uses it.
        lent = memory[:num_bytes]
        weakref.finalize(lent, self._idle.append, memory).atexit = False
        return torch.from_numpy(lent).view(*shape)

    def _take(self, num_bytes: int) -> np.ndarray:
        """Return idle memory of about the size, or new memory; what does not fit is let go."""
        while True:
            try:
                memory = self._idle.pop()
            except IndexError:
                return np.empty(num_bytes, dtype=np.uint8)
            if num_bytes <= memory.size <= 2 * num_bytes:
                return memory
