"""The name that a process gives its half-written files, by which others find out whether it still lives.

    <boot and PID namespace of its machine>-<process number>-<time of its start, in the kernel's ticks since boot>

A host's name would not do: containers on one host, or on many, have equal ones, and a process number means another
process in each of them.
"""

import hashlib
import os
from functools import cache
from pathlib import Path
from uuid import uuid4

PROCESSES = Path("/proc")
"""Where the kernel tells of them; it may hide those of other users there."""


def own_name() -> str:
    """Return this process's name."""
    return f"{_machine()}-{os.getpid()}-{_start_ticks(os.getpid())}"


def is_gone(name: str) -> bool:
    """Tell whether a process was of this machine and has ended; False where nobody here can tell."""
    machine, _, process = name.partition("-")
    number, _, ticks = process.partition("-")
    if machine != _machine() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's, which lives
    started_ticks = _start_ticks(int(number))
    return started_ticks is not None and str(started_ticks) != ticks


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        content = boot + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux, or a sandbox: a name that nobody has
        content = uuid4().hex
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _start_ticks(number: int) -> int | None:
    """Return when the process of this number started; 0 where only its exit code is left, None where it is not to be
    seen."""
    try:
        stat = (PROCESSES / str(number) / "stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the program's name, before it, may hold anything
    return 0 if state in "ZX" else int(fields[18])
