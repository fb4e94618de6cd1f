"""Where a figure comes from: what every line of a benchmark says besides its numbers."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit measured, with a plus sign where the working tree differs from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
