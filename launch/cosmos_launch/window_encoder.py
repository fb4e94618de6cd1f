"""A tokenizer that encodes windows to the same bits, whatever the number of processes and of their threads.

On a CPU each window is encoded alone and by one thread, since the last digits of a product may depend on how many share
it; several windows are encoded at a time. On a GPU a batch goes through together.
"""

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from cosmos_tok.config import NotFiniteError
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range

WINDOWS_AT_ONCE = 4


class WindowEncoder:
    """To be used in a `with` block, inside of which torch has one thread for each product on a CPU."""

    def __init__(self, tokenizer: CausalVideoTokenizer, device: torch.device, *, as_codes: bool) -> None:
        """as_codes: int32 codes [1, T, H, W] in the place of float32 latents [C, T, H, W]."""
        self._tokenizer, self._device, self._as_codes = tokenizer.eval().to(device), device, as_codes
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

    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """uint8 pixels -> latents [B, C, T, H, W] on the CPU, of at most WINDOWS_AT_ONCE windows.

        Raises:
            NotFiniteError: the tokenizer gave NaN or infinity, as one does whose numbers overflow.
        """
        if self._device.type == "cpu":
            return torch.cat(list(self._threads.map(self._encode, pixels_B3THW[:, None])))
        return self._encode(pixels_B3THW)

    @torch.inference_mode()
    def _encode(self, pixels_B3THW: Tensor) -> Tensor:
        z_BCTHW = self._tokenizer.encode(to_unit_range(pixels_B3THW.to(self._device))).float()
        if not torch.isfinite(z_BCTHW).all():
            raise NotFiniteError("the tokenizer encodes a window to NaN or infinity; take an earlier or another one")
        return (self._tokenizer.indices(z_BCTHW)[:, None].int() if self._as_codes else z_BCTHW).cpu()
