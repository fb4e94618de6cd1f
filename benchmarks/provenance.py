"""Where a figure comes from: what every line of a benchmark says besides its numbers."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def provenance(device: str = "") -> dict[str, Any]:
    """Return the machine, or the device that is named, how busy the machine is, the day, and the commit measured."""
    return {
        "device": device or f"{cpu_name()}, {os.cpu_count()} cores",
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }


def commit() -> str:
    """Return the commit measured, with a plus sign where the working tree differs from it."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def cpu_name() -> str:
    """Return the processor's model as the kernel has it."""
    match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()
