"""What may take a process down, hang or take long is tried in a process of its own, under a time limit."""

import os
import subprocess
import sys
import tempfile

CHILD_LIMIT_SEC = 60.0
"""What hangs is cut off; a first import from a network file system takes long, and is no fault."""
TIMED_OUT = 124


def in_child(program: str, *arguments: str, limit_sec: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python source on this process's import path.

    A child past its time, CHILD_LIMIT_SEC where no other is said, is killed and reads as TIMED_OUT.
    """
    command = [sys.executable, "-P", "-c", program, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    limit_sec = CHILD_LIMIT_SEC if limit_sec is None else limit_sec
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            code = subprocess.run(command, stdout=out, stderr=err, env=environment, timeout=limit_sec).returncode
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
            err.write(f"\nno answer within {limit_sec:.0f} s\n")
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def last_words(child: subprocess.CompletedProcess[str]) -> str:
    """Say why a child failed: its signal, or the last line that it or its limit has written."""
    if child.returncode < 0:
        return f"killed by signal {-child.returncode}"
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {child.returncode}"
