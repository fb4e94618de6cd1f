"""Copies between the host and a device that no step waits for.

On CUDA they go through pinned memory on a stream of their own; on a CPU tensors are handed on as they are.

    sent = copier.send([pixels_B3THW])          in a thread that runs ahead
    (pixels_B3THW,) = sent.wait()               in the thread that computes with them
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sent:
    """Tensors on their way to a device."""

    tensors: list[Tensor]
    arrival: torch.cuda.Event | None
    """Comes after their copies; None where nothing is copied."""

    def wait(self) -> list[Tensor]:
        """The tensors, for the calling thread's current stream: that waits for the copies, the host does not."""
        if self.arrival is not None:
            for tensor in self.tensors:
                stream = torch.cuda.current_stream(tensor.device)
                stream.wait_event(self.arrival)
                # Their memory is the copying stream's, which would use it again while this one still reads it.
                tensor.record_stream(stream)
        return self.tensors


class DeviceCopier:
    """Copies to one device and back, for any number of threads."""

    def __init__(self, device: torch.device) -> None:
        """Make the streams. `stream()` comes after what the current stream has been given so far, such as weights."""
        self._device = device
        self._copies = self._work = None
        if device.type == "cuda":
            self._copies, self._work = torch.cuda.Stream(device), torch.cuda.Stream(device)
            self._work.wait_stream(torch.cuda.current_stream(device))

    def send(self, tensors: Sequence[Tensor]) -> Sent:
        """Begin to copy tensors to the device. Those that are there, and ready, are handed on as they are.

        What is pinned already is read later: nobody may write to it any more.
        """
        if self._copies is None:
            return Sent(list(tensors), None)
        with torch.cuda.stream(self._copies):
            on_device, arrival = [self._to_device(tensor) for tensor in tensors], torch.cuda.Event()
            arrival.record(self._copies)
        return Sent(on_device, arrival)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            return tensor
        # Torch keeps pinned blocks, and notes each copy that reads one: let go here, it is used again after the copy.
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def fetch(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copy what the current stream computes to the CPU. The calling thread waits for it, and for nothing else."""
        fetched = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into memory that torch pins
        if self._copies is not None:
            copied = torch.cuda.Event(blocking=True)  # sleeps, where others would keep a core busy
            copied.record(torch.cuda.current_stream(self._copies.device))
            copied.synchronize()
        return fetched

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """A block whose work is given to a stream beside the step's, and does not wait for that."""
        return contextlib.nullcontext() if self._work is None else torch.cuda.stream(self._work)
