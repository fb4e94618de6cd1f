"""The signals that ask a run to stop, taken by a thread of their own from before the heavy imports to the very end.

Everywhere else in the process they are blocked. A block is inherited by processes that are started, where a handler is
not: those that help to save live until it is saved, though Slurm signals every process of a job, and a rank that only
begins to run loses none of them, because what is blocked waits until the rank takes it.
"""

import ctypes
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
"""From Slurm or a user, of a terminal that was closed, of Ctrl-C."""
DONE, STOPPED = 0, 75
"""Exit codes: all steps are done; stopped early, saved, to be started again."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that this process gets when the thread that started it is gone."""


def end_with_parent() -> None:
    """From here on the kernel kills this process when the thread that started it ends, however that comes about."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class StopSignals:
    """What this process was asked, from `start` on; in a `with` block until its end.

    Args:
        on_signal: called after each signal with those so far, in the thread that takes them.
    """

    def __init__(self, on_signal: Callable[[Sequence[int]], None] = lambda received: None) -> None:
        self.received: list[int] = []
        """Signals in their order."""
        self._on_signal = on_signal
        self._is_closing = False

    @property
    def is_asked(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(self.received)

    def ask(self, number: int) -> None:
        """Take a signal, also one that came to others before this process could hear it."""
        self.received.append(number)
        self._on_signal(self.received)

    def start(self) -> None:
        """Listen. Called by the main thread, before there are others."""
        self._numbers = [number for number in STOP_SIGNALS if not _is_to_do_nothing(number)]
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        # A thread that somebody has started before may still be given one; Python then calls the main thread.
        self._handlers = {number: signal.signal(number, self._handle) for number in self._numbers}
        self._thread = threading.Thread(target=self._take, name="stop signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the signals to whoever had them before."""
        self._is_closing = True
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, signal.SIGUSR1)
        self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def __enter__(self) -> "StopSignals":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> None:
        while True:
            number = signal.sigwait(self._numbers)
            if number == signal.SIGUSR1 and self._is_closing:
                return
            self.ask(number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.ask(number)


def _is_to_do_nothing(number: signal.Signals) -> bool:
    """Whether who started this process wants that: nohup of SIGHUP, a script of SIGINT in the background."""
    return number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN
