"""Start the processes of a run on this machine, watch them, and end with their exit code.

One process a rank, with the environment that torchrun would give it. The first rank that fails ends the others within
seconds, and what it printed last stands last. A worker started by torchrun or srun does not come through here.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

STOPPED = 75
GRACE_SEC = 5.0
"""Ranks that wait for a failed one in a collective get a moment to leave by themselves."""


def is_worker() -> bool:
    """Whether torchrun, srun or run_ranks started this process as one rank of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run_ranks(command: Sequence[str], num_ranks: int, *, threads_per_rank: int = 0) -> int:
    """Run `command` once per rank. Returns 0, 75 where ranks stopped to be requeued, or the first failure's code."""
    threads = threads_per_rank or max(1, (os.cpu_count() or 1) // num_ranks)
    environment = {
        **os.environ,
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(threads),
    }
    ranks: list[subprocess.Popen] = []
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    previous = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        for rank in range(num_ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: it can be ended with the helpers that it starts to write checkpoints.
            ranks.append(subprocess.Popen(command, env=environment | own, start_new_session=True))
            for number in received:  # while this one was being started
                ranks[-1].send_signal(number)
        return _wait(ranks)
    finally:
        _end(ranks)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: list[subprocess.Popen]) -> int:
    while True:
        codes = [process.poll() for process in ranks]
        # A rank that stopped is not one that failed: another may still be telling Weights & Biases.
        failed = [(rank, code) for rank, code in enumerate(codes) if code not in (None, 0, STOPPED)]
        if failed:
            rank, code = failed[0]
            _end(ranks, grace_sec=GRACE_SEC)
            if code < 0:
                print(f"cosmos-train: rank {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
            elif code != 2 and len(ranks) > 1:
                print(f"cosmos-train: rank {rank} failed with exit code {code}; the others were ended", file=sys.stderr)
            return 128 - code if code < 0 else code
        if None not in codes:
            return max(code or 0 for code in codes)
        time.sleep(0.05)


def _end(ranks: list[subprocess.Popen], grace_sec: float = 0.0) -> None:
    deadline = time.monotonic() + grace_sec
    for process in ranks:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):  # the usual case: all of it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
