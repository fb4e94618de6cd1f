"""How a process of a run hears that it is to stop, and that whoever started it is gone.

The launcher and each rank listen from their first lines on (cosmos_train.train.signals). A rank that was asked finishes
its step, saves and leaves with 75; before the first step it leaves as soon as all ranks can. Of a launcher that is
killed the kernel tells its ranks.
"""

import os
import signal
import sys
from collections.abc import Sequence

from cosmos_launch.jobs.failure import end_children, failures_folder
from cosmos_launch.jobs.terminal import outlive_terminal
from cosmos_train.config.environment import rank_for_messages
from cosmos_train.train.signals import StopSignals, end_with_parent

ASKED = "stop"
"""In the folder of failures: the job was asked to stop, maybe before there were ranks to hear it."""
LAUNCHER = "COSMOS_TRAIN_LAUNCHER"
"""Variable for a rank: the process that started it, without which it is to end."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code after the second Ctrl-C."""


def listen_as_launcher() -> StopSignals:
    """What this process, which starts ranks, is asked, to its end. It does not end by that, nor with its terminal."""
    outlive_terminal()
    stop = StopSignals(say_what_interrupts_do)
    stop.start()
    return stop


def listen_as_rank() -> StopSignals:
    """The same in a rank, which also ends with its launcher."""
    outlive_terminal()
    end_with_launcher()
    stop = StopSignals(_answer_interrupts)
    stop.start()
    folder = failures_folder()
    if folder is not None and (folder / ASKED).exists():
        stop.ask(signal.SIGUSR1)
    return stop


def end_with_launcher() -> None:
    """Not to go on alone after the process that started this rank, however that ends."""
    launcher = os.environ.pop(LAUNCHER, None)  # not for what is started from here
    if launcher is None:
        return
    end_with_parent()
    if os.getppid() != int(launcher):  # it was gone before
        os._exit(1)


def say_what_interrupts_do(received: Sequence[int]) -> None:
    """At the first Ctrl-C."""
    if received[-1] == signal.SIGINT and received.count(signal.SIGINT) == 1 and rank_for_messages() == 0:
        print(
            "cosmos-train: leaves when what goes on is finished and saved; Ctrl-C again leaves at once, and what is "
            "not saved is lost",
            file=sys.stderr,
            flush=True,
        )


def _answer_interrupts(received: Sequence[int]) -> None:
    say_what_interrupts_do(received)
    if received.count(signal.SIGINT) > 1:
        end_children()
        os._exit(INTERRUPTED)
