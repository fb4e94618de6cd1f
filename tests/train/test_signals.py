"""Who listens hears each signal whatever else the process does; what it starts hears none."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cosmos_train.train.signals import STOP_SIGNALS, StopSignals

LIVES = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read(); print('end')"]


def started() -> subprocess.Popen[str]:
    process = subprocess.Popen(LIVES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_this_process_hears_and_what_it_starts_does_not():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignals() as stop:
        assert not stop.is_asked
        child = started()
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
            child.send_signal(number)
        wait_until(lambda: len(stop.received) == len(STOP_SIGNALS))
        assert stop.is_asked and sorted(stop.received) == sorted(STOP_SIGNALS)
    assert child.communicate("", timeout=60)[0] == "end\n" and child.returncode == 0
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    outside = started()
    outside.terminate()
    outside.communicate(timeout=60)
    assert outside.returncode == -signal.SIGTERM


def test_a_thread_that_was_there_before_does_not_end_the_process():
    """It does not block the signals, so it may be given them."""
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    with StopSignals() as stop:
        assert thread.ident is not None
        signal.pthread_kill(thread.ident, signal.SIGTERM)
        wait_until(lambda: stop.is_asked)
    leave.set()
    thread.join()
    assert stop.received == [signal.SIGTERM]


def test_a_signal_of_before_the_process_listened_is_not_lost():
    """As a rank's that only begins to run: it is born with what its launcher blocks."""
    heard = (
        "import os, signal, time; os.kill(os.getpid(), signal.SIGUSR1)\n"
        "from cosmos_train.train.signals import StopSignals\n"
        "stop = StopSignals(); stop.start()\n"
        "while not stop.is_asked: time.sleep(0.01)\n"
        "print(*stop.received)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with StopSignals():
        child = subprocess.run([sys.executable, "-c", heard], env=environment, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (0, f"{int(signal.SIGUSR1)}\n"), child.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=["nohup", "background"])
def test_what_the_process_was_told_to_ignore_it_ignores(number: signal.Signals):
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_until(lambda: stop.is_asked)
        assert stop.received == [signal.SIGTERM]
    finally:
        signal.signal(number, previous)
