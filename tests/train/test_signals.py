"""Processes that help a run to save outlive the signal by which the run is asked to."""

import os
import signal
import subprocess
import sys
import time

from cosmos_train.train.signals import STOP_SIGNALS, deaf_children

LIVES = [sys.executable, "-c", "import sys, time; print('up', flush=True); sys.stdin.read(); print('end')"]


def started() -> subprocess.Popen[str]:
    process = subprocess.Popen(LIVES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def test_children_do_not_hear_and_this_process_does():
    """At the latest afterwards: threads of libraries that are not deaf may hear for it before."""
    heard: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: heard.append(n)) for number in STOP_SIGNALS}
    try:
        with deaf_children():
            child = started()
            for number in STOP_SIGNALS:
                os.kill(os.getpid(), number)
        for _ in range(500):
            if len(heard) < len(STOP_SIGNALS):
                time.sleep(0.01)
        assert sorted(heard) == sorted(STOP_SIGNALS)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    for number in STOP_SIGNALS:
        child.send_signal(number)
    assert child.communicate("", timeout=30)[0] == "end\n" and child.returncode == 0
    outside = started()
    outside.terminate()
    outside.communicate(timeout=30)
    assert outside.returncode == -signal.SIGTERM
