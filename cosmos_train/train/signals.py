"""SIGTERM and SIGUSR1, by which Slurm and users ask a run to stop."""

import contextlib
import signal
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside never see the stop signals; for this one they wait until the end.

    Slurm signals every process of a job. Those that help this one to save must live until it has saved: a blocked
    signal is inherited over exec, where a handler is not.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
