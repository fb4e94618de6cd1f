"""How long the command takes to answer: its help, and the check of a run's configuration, against a bare interpreter.

    python benchmarks/startup.py run/demo_world --repeats 15

Prints one JSON line per command: the median and the range of its wall time in seconds, and the median of its ratio to
the bare interpreter. The commands take turns within each round, so that a busy moment of the machine meets all alike;
one round before the first is not counted, because it writes the bytecode. A command that fails ends the benchmark.
"""

import argparse
import json
import platform
from functools import partial

from interleaved import median_ratio, spread, timings_in_turns
from own_process import run_python
from provenance import provenance

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
    where = {"repeats": options.repeats, "python": platform.python_version(), **provenance()}
    calls = {name: partial(run_python, arguments) for name, arguments in commands.items()}
    seconds = timings_in_turns(calls, options.repeats, warmups=1).seconds
    for name, times in seconds.items():
        figures = {**spread(times), "ratio_to_bare": median_ratio(times, seconds[BARE])}
        print(json.dumps({"benchmark": "startup", "command": name, **figures, **where}))


if __name__ == "__main__":
    main()
