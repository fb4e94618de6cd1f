"""Start the processes of a run on this machine, watch them, and end with their exit code.

One process a rank, with the environment that torchrun would give it. The first rank that fails ends the others within
seconds, and its error stands last. A worker of a Slurm job does not come through here, but through
cosmos_launch.jobs.node.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cosmos_launch.jobs.failure import FAILURES, host_name
from cosmos_launch.jobs.stopping import INTERRUPTED, LAUNCHER
from cosmos_train.train.failures import describe, read_failures, record_failure
from cosmos_train.train.signals import STOP_SIGNALS, STOPPED, StopSignals

GRACE_SEC = 5.0
"""Ranks that wait for a failed one in a collective get a moment to leave by themselves."""


def run_ranks(
    command: Sequence[str], num_ranks: int, *, threads_per_rank: int = 0, stop: StopSignals | None = None
) -> int:
    """Run `command` once per rank. Returns 0, 75 where ranks stopped to be requeued, or the first failure's code.

    Args:
        stop: what this process is asked, which is passed on to the ranks; they are born with its signals blocked, and
            listen. None: a signal ends this process, as it does others, and the ranks with it.
    """
    threads = threads_per_rank or max(1, (os.cpu_count() or 1) // num_ranks)
    environment = {
        # TORCHELASTIC_*: of a torchrun around this command, whose store is not these ranks'.
        **{name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")},
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(threads),
        LAUNCHER: str(os.getpid()),
    }
    with tempfile.TemporaryDirectory(prefix="cosmos-train-") as folder:
        return _run_ranks(command, num_ranks, environment | {FAILURES: folder}, Path(folder), stop or StopSignals())


def _run_ranks(
    command: Sequence[str], num_ranks: int, environment: dict[str, str], failures: Path, stop: StopSignals
) -> int:
    ranks: list[subprocess.Popen] = []
    if stop.is_asked:
        return STOPPED
    try:
        for rank in range(num_ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: it can be ended with the helpers that it starts to write checkpoints.
            ranks.append(subprocess.Popen(command, env=environment | own, start_new_session=True))
        return _wait(ranks, failures, stop)
    finally:
        _end(ranks)


def _wait(ranks: list[subprocess.Popen], failures: Path, stop: StopSignals) -> int:
    num_passed_on = 0
    while True:
        if stop.received.count(signal.SIGINT) > 1:
            return INTERRUPTED
        if len(stop.received) > num_passed_on:
            num_passed_on = len(stop.received)
            for process in ranks:
                process.send_signal(signal.SIGTERM)
        codes = [process.poll() for process in ranks]
        # A rank that stopped is not one that failed: another may still be telling Weights & Biases.
        failed = [(rank, code) for rank, code in enumerate(codes) if code not in (None, 0, STOPPED)]
        if failed:
            for rank, code in failed:
                record_exit(failures, rank, code)
            _end(ranks, grace_sec=GRACE_SEC)
            first, *others = read_failures(failures)
            # What is wrong with the input was told once, but other ranks may have failed of that one's end since.
            is_told = len(ranks) == 1 or (first.code == 2 and all(other.sentence == first.sentence for other in others))
            if first.was_silent or not is_told:
                print(f"cosmos-train: {describe(first)}", file=sys.stderr)
            return first.code
        if None not in codes:
            return max(code or 0 for code in codes)
        time.sleep(0.05)


def record_exit(failures: Path, rank: int, code: int) -> None:
    """Write down that a rank's process ended with this code, below zero a signal's; its own words stand over it.

    Of a signal that asks to stop no node is suspected.
    """
    is_signal = code < 0
    sentence = f"it was ended by {signal.Signals(-code).name}" if is_signal else f"it left with exit code {code}"
    record_failure(
        failures,
        rank=rank,
        host=host_name(),
        code=128 - code if is_signal else code,
        sentence=sentence,
        was_silent=is_signal and -code not in STOP_SIGNALS,
    )


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
