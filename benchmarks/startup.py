"""How long the command takes to answer: its help, and the check of a run's configuration, against a bare interpreter.

    python benchmarks/startup.py run/demo_world --repeats 15

Prints one JSON line per command: the median and the range of its wall time in seconds, and the median of its ratio to
the bare interpreter. The commands take turns within each round, so that a busy moment of the machine meets all alike;
one round before the first is not counted, because it writes the bytecode. A command that fails ends the benchmark.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from provenance import commit

ROOT = Path(__file__).resolve().parents[1]
BARE = "python -c pass"


def main() -> None:
    parser = argparse.ArgumentParser(description="How long the command takes to answer.")
    parser.add_argument("config", help="the run configuration that `train --check` validates: a path or a shipped name")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that count")
    options = parser.parse_args()

    cli = ["-m", "cosmos_launch.cli"]
    commands = {
        BARE: ["-c", "pass"],
        "cosmos-train --help": [*cli, "--help"],
        f"cosmos-train train {options.config} --check": [*cli, "train", options.config, "--check"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_index in range(options.repeats + 1):
        for name, arguments in commands.items():
            taken = wall_seconds(arguments)
            if round_index:
                seconds[name].append(taken)

    where = {
        "repeats": options.repeats,
        "device": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }
    for name, times in seconds.items():
        ratios = [taken / bare for taken, bare in zip(times, seconds[BARE], strict=True)]
        figures = {
            "median_sec": round(statistics.median(times), 4),
            "min_sec": round(min(times), 4),
            "max_sec": round(max(times), 4),
            "ratio_to_bare": round(statistics.median(ratios), 2),
        }
        print(json.dumps({"benchmark": "startup", "command": name, **figures, **where}))


def wall_seconds(arguments: list[str]) -> float:
    """One run of this interpreter, from start to exit."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    taken = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return taken


if __name__ == "__main__":
    main()
