"""Parts of a benchmark in processes of their own, and the memory of this one."""

import ctypes
import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from provenance import ROOT

MIB = 2**20


def run_python(arguments: Sequence[str], *, checkout: Path = ROOT) -> str:
    """Run this interpreter on the code of a checkout, before what PYTHONPATH has, and return what it printed.

    Its standard error is this process's. Where it fails, this process ends with what it printed.
    """
    roots = [str(root) for root in (checkout, checkout / "launch", checkout / "data", checkout / "tokenizers")]
    if inherited := os.environ.get("PYTHONPATH"):
        roots.append(inherited)
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(roots)},
        cwd=checkout,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with exit code {done.returncode}:\n{done.stdout}")
    return done.stdout


def peak_mib_of(call: Callable[[], Any]) -> float:
    """Return the peak of this process's memory during a call, beyond what is resident before it."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the call could live on what was left free before it
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again at what is resident now
    before_mib = status_mib("VmRSS")
    call()
    return status_mib("VmHWM") - before_mib


def status_mib(key: str) -> float:
    """Return a size from /proc/self/status: VmRSS is what is resident, mapped files among it, and VmHWM its peak."""
    match = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert match, f"/proc/self/status has no {key}"
    return int(match[1]) / 1024


def compared_peaks(script: str, arguments: Sequence[str], sides: Sequence[str]) -> dict[str, float]:
    """Return what SCRIPT ARGUMENTS --peak-of SIDE prints for each of two sides, in MiB, and the ratio of the first."""
    peaks = {side: float(run_python([script, *arguments, "--peak-of", side]).split()[-1]) for side in sides}
    first, second = peaks.values()
    return {f"{side}_peak_mib": round(peak, 1) for side, peak in peaks.items()} | {
        "peak_ratio": round(first / second, 3)
    }
