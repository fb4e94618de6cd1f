"""One rank's files of a checkpoint: written here, or by a process of its own while training goes on.

That process is started clean and is no fork of this one: a fork takes over locks that threads of gloo, NCCL and the
data loader hold, and sockets that then outlive their rank, and until it has ended each page that training touches is
copied. It shares memory with this process, into which a state is copied before training goes on. The memory is kept for
the next save, because fresh pages cost several times what the copy does. It holds what of several saves is not
written yet, one after the other.
"""

import contextlib
import errno
import mmap
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from cosmos_train.parallel.torch_private import write_item
from cosmos_train.train.checkpoint.folder import digest_of
from cosmos_train.train.signals import end_with_parent

ALIGNMENT = 64
"""Tensors in shared memory begin at multiples of so many bytes, a cache line."""
LEAST_FREE_MIB = 1.0
"""With less a disk counts as full."""
COPY_BYTES = 2**24
"""Read at once of a staged file."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in shared memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class FileOfRank:
    """One of the files that a rank writes of a checkpoint, as torch.distributed.checkpoint plans it."""

    path: Path
    objects: Sequence[tuple[WriteItem, BytesIO]]
    tensors: Sequence[tuple[WriteItem, Tensor | Place]]
    staged: Path | None
    """On the node's own disk, where the file is made before it is copied to its path."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that is on its disk."""

    name: str
    digest: str
    results: list[WriteResult]
    """Where each item lies in it."""


def write_file(file: FileOfRank, memory: "SharedMemory | None" = None) -> Written:
    """Write it, flush it to the disk and compute its digest.

    Args:
        memory: what places of tensors point into.

    Raises:
        OSError: the disk is full, or gone; its filename is the folder.
    """
    target = file.path if file.staged is None else file.staged
    try:
        with _told_of_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as stream, ThreadPoolExecutor(1) as beside:
                items = [*file.objects, *((item, _on_cpu(tensor, memory)) for item, tensor in file.tensors)]
                results = [write_item(stream, item, data, file.path.name) for item, data in items]
                stream.flush()
                digesting = beside.submit(digest_of, target)  # from the page cache, while the disk is waited for
                os.fsync(stream.fileno())
                digest = digesting.result()
        if file.staged is not None:
            with _told_of_full_disk(file.path), target.open("rb") as staged, file.path.open("wb") as stream:
                shutil.copyfileobj(staged, stream, COPY_BYTES)
                stream.flush()
                os.fsync(stream.fileno())
    finally:
        if file.staged is not None:
            file.staged.unlink(missing_ok=True)
    return Written(file.path.name, digest, results)


@contextlib.contextmanager
def _told_of_full_disk(path: Path) -> Iterator[None]:
    """Name the folder of a file for which there is no room, before what was written of it is removed."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's own where it can not write
        if path.parent.is_dir() and free_mib(path) < LEAST_FREE_MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent)) from error
        raise


def free_mib(path: Path) -> float:
    """On the disk of the nearest folder that is there."""
    there = next(folder for folder in path.parents if folder.is_dir())
    return shutil.disk_usage(there).free / 2**20


def _on_cpu(tensor: Tensor | Place, memory: "SharedMemory | None") -> Tensor:
    if isinstance(tensor, Tensor):
        return tensor.cpu().contiguous()  # as checkpoint/read.py relies on
    assert memory is not None
    return memory.tensor(tensor)


class SharedMemory:
    """Main memory that two processes map; it grows and is kept."""

    def __init__(self, fd: int) -> None:
        self.fd, self.map = fd, None

    def reserve(self, num_bytes: int) -> None:
        """Have at least so many bytes. Tensors of before keep the memory that they are in."""
        size = max(1, num_bytes, os.fstat(self.fd).st_size)
        if self.map is None or len(self.map) < size:
            os.ftruncate(self.fd, size)
            self.map = mmap.mmap(self.fd, size)

    def tensor(self, place: Place) -> Tensor:
        """A tensor there, with a storage that is no larger than itself: megatron-core copies others once more."""
        assert self.map is not None
        count = torch.Size(place.shape).numel()
        if not count:
            return torch.empty(place.shape, dtype=place.dtype)
        return torch.frombuffer(self.map, dtype=place.dtype, count=count, offset=place.offset).view(place.shape)


class WriterProcess:
    """Writes this rank's files, one after the other. Deaf to stop signals (train.signals), it ends with its rank."""

    def __init__(self) -> None:
        self.memory = SharedMemory(os.memfd_create("checkpoint"))
        self.places: dict[int, Place] = {}
        """Of what is in the memory, by its address."""
        self.num_bytes = 0
        """Of the memory that is in use."""
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), self.memory.fd)
            program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve{fds}"
            self.process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=fds)
        self.pipe = Connection(ours.detach())

    def make_room(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Places for copies of these in shared memory, after those that were made since `forget`."""
        places = []
        for tensor in tensors:
            places.append(Place(self.num_bytes, tuple(tensor.shape), tensor.dtype))
            self.num_bytes += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.memory.reserve(self.num_bytes)
        copies = [self.memory.tensor(place) for place in places]
        self.places |= {copy.data_ptr(): place for copy, place in zip(copies, places, strict=True)}
        return copies

    def forget(self) -> None:
        """All that was copied is written: its memory can be used again."""
        self.places.clear()
        self.num_bytes = 0

    def start(self, files: Sequence[FileOfRank]) -> None:
        """Have files of what lies in shared memory written: told are places, not tensors."""
        told = [replace(file, tensors=[(item, self._place(tensor)) for item, tensor in file.tensors]) for file in files]
        self.pipe.send_bytes(pickle.dumps(told))

    def _place(self, tensor: Tensor | Place) -> Place:
        return self.places[tensor.data_ptr()] if isinstance(tensor, Tensor) else tensor

    def is_done(self) -> bool:
        """Whether `result` would answer at once; also where the process has died."""
        return self.pipe.poll()

    def result(self) -> list[Written] | Exception:
        """What became of the files; waits until that is known."""
        try:
            return pickle.loads(self.pipe.recv_bytes())
        except (EOFError, ConnectionError):
            return OSError(f"the process that writes checkpoints has ended (exit code {self.process.wait()})")

    def close(self) -> None:
        """End the process; what it has not finished stays half-written."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        os.close(self.memory.fd)


def serve(pipe_fd: int, memory_fd: int) -> None:
    """What the process does: write file after file, until nobody is left to ask for one."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it goes to the whole group
    torch.set_num_threads(1)
    pipe, memory = Connection(pipe_fd), SharedMemory(memory_fd)
    while True:
        try:
            files: list[FileOfRank] = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        memory.reserve(0)
        try:
            answer = [write_file(file, memory) for file in files]
        except Exception as error:  # whatever it is, the rank that asked must hear of it
            answer = error
        pipe.send_bytes(pickle.dumps(answer))
