"""A pool of gloo processes that all tests share: importing torch and megatron-core costs each several seconds.

    ranks(2).run(function, *arguments) -> [result of rank 0, result of rank 1]

`function` is importable (it lives in tests/support) and finds the process group started. A pool in which a rank raised
is thrown away, because the others may hang in a collective; the next use starts a new one.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

TIMEOUT_SEC = 240.0
NICENESS = 5
MAX_THREADS = 400
"""In a rank, before all are started anew. megatron-core's DDP holds itself through hooks of autograd's nodes, where no
garbage collector looks, and with it the groups of its layout: two threads of gloo each, and sockets.
"""


def open_store() -> TCPStore:
    """The store over which ranks find each other, here instead of in rank 0: its port is its own from the beginning."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def rank_environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """What a rank is told that meets the others at the store (`open_store`) on this port."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # torch's way to say that rank 0 opens none
    }


class RankPool:
    """`num_ranks` processes, each serving calls from a pipe."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")  # imports once, for all pools
        context.set_forkserver_preload(["cosmos_train.recipes.world_dit"])
        self.store = open_store()
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        self.num_threads = 0
        for rank in range(self.num_ranks):
            mine, theirs = context.Pipe()
            # Not daemonic: megatron-core starts helper processes to write checkpoints.
            told = rank_environment(rank, self.num_ranks, self.store.port)
            process = context.Process(target=_serve, args=(theirs, told))
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)

    def run(self, function: Callable, *args: Any) -> list[Any]:
        """Call on every rank. Raises AssertionError with the first rank's traceback where one failed."""
        if self.num_threads > MAX_THREADS:
            self.close()
            self._start()
        for pipe in self.pipes:
            pipe.send((function, args))
        results: list[Any] = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(TIMEOUT_SEC):
                self.close()
                raise AssertionError(f"rank {rank} gave no answer in {TIMEOUT_SEC} s")
            ok, result, num_threads = pipe.recv()
            self.num_threads = max(self.num_threads, num_threads)
            if not ok:
                self.close()
                raise AssertionError(f"rank {rank}:\n{result}")
            results.append(result)
        return results

    @property
    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what megatron-core started to write checkpoints
            process.join()


def _give_way() -> None:
    """Let a job of the test Slurm beside this pool come first: its limits are counted in seconds, a pool has none.

    Linux may divide its cores by sessions first, of which each rank has its own, and only then by niceness.
    """
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # another kernel, or a user who may not
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def _serve(pipe: Connection, told: dict[str, str]) -> None:
    os.setsid()
    _give_way()
    os.environ.update(told)
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*args), _num_threads()))
        except BaseException:  # whatever it is, the test that asked must see it
            pipe.send((False, traceback.format_exc(), _num_threads()))


def _num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
