"""A tokenizer that encodes windows, for `tokenize` to the same bits whatever the number of processes and threads.

In the `with` block, on a CPU, each window is encoded alone and by one thread, since the last digits of a product may
depend on how many share it; several windows are encoded at a time. On a GPU a batch goes through together, on a stream
of its own.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from types import TracebackType

import torch
from torch import Tensor

from cosmos_tok.config import NotFiniteError
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_train.parallel.device_copy import DeviceCopier, Sent

WINDOWS_AT_ONCE = 4


class WindowEncoder:
    """`encode` is to be used in a `with` block, inside of which torch has one thread for each product on a CPU."""

    def __init__(self, tokenizer: CausalVideoTokenizer, device: torch.device, *, as_codes: bool) -> None:
        """as_codes: int32 codes [1, T, H, W] in the place of float32 latents [C, T, H, W]."""
        self._tokenizer, self._device, self._as_codes = tokenizer.eval().to(device), device, as_codes
        self._copier = DeviceCopier(device)  # after the weights: its stream waits for their copies
        self._lock = Lock()
        self.dtype = torch.int32 if as_codes else torch.float32

    def __enter__(self) -> "WindowEncoder":
        self._num_threads = torch.get_num_threads()
        if self._device.type == "cpu":
            torch.set_num_threads(1)
        self._threads = ThreadPoolExecutor(min(self._num_threads, WINDOWS_AT_ONCE))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        torch.set_num_threads(self._num_threads)

    def send(self, pixels_B3THW: Tensor) -> Sent:
        """Begin to copy uint8 pixels to the device; any thread may."""
        return self._copier.send([pixels_B3THW])

    def encode(self, pixels: Sent) -> Tensor:
        """Encode what was sent, at most WINDOWS_AT_ONCE windows, to latents [B, C, T, H, W] on the CPU.

        Raises:
            NotFiniteError: the tokenizer gave NaN or infinity, as one does whose numbers overflow.
        """
        with self._copier.stream():
            (pixels_B3THW,) = pixels.wait()
            if self._device.type == "cpu":
                return torch.cat(list(self._threads.map(self._encode, pixels_B3THW[:, None])))
            return self._encode(pixels_B3THW)

    def encode_one(self, window_3THW: Tensor) -> Tensor:
        """uint8 pixels of one window -> latents [C, T, H, W] on the CPU. Threads that call at a time take turns.

        Alone, since kernels may round a batch differently from its parts. Raises as `encode` does.
        """
        sent = self.send(window_3THW[None])
        with self._lock, self._copier.stream():
            (pixels_13THW,) = sent.wait()
            return self._encode(pixels_13THW)[0]

    @torch.no_grad()  # a run trains on what comes out, and could not on a tensor of inference mode
    def _encode(self, pixels_B3THW: Tensor) -> Tensor:
        z_BCTHW = self._tokenizer.encode(to_unit_range(pixels_B3THW)).float()
        wanted = self._tokenizer.indices(z_BCTHW)[:, None].int() if self._as_codes else z_BCTHW
        found_BCTHW, is_finite = self._copier.fetch([wanted, torch.isfinite(z_BCTHW).all()])
        if not is_finite:
            raise NotFiniteError("the tokenizer encodes a window to NaN or infinity; take an earlier or another one")
        return found_BCTHW
