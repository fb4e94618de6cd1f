"""What a run's time goes to besides forward, backward and optimizer: waiting for data, saving, and the loop itself.

    make demo && python benchmarks/loop.py runs/demo/world

Reads metrics.jsonl alone. Of each start of the run it takes the wall time from its first logged step to its last, so
all that the loop does between them counts, whether anything measures it or not. Prints one JSON line per start: the
share of each phase, of what no phase has (`rest_share`: logging, signals, averages), and `overhead_share`, which is all
that is not forward, backward and optimizer.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from provenance import provenance

from cosmos_launch.pages.run_records import read_metrics
from cosmos_train.train.telling.rank_times import PHASES

WORK = ("forward", "backward", "optimizer")
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a run's time goes to besides forward, backward and optimizer.")
    parser.add_argument("run_dir", type=Path, help="folder of a run that logged steps")
    options = parser.parse_args()
    where = provenance()
    for steps in starts(read_metrics(options.run_dir / "metrics.jsonl")):
        if len(steps) > 1:
            span = {"run": str(options.run_dir), "first_step": steps[0]["step"], "last_step": steps[-1]["step"]}
            print(json.dumps({"benchmark": "loop", **span, **shares(steps), **where}))


def starts(records: Iterable[Record]) -> list[list[Record]]:
    """The logged steps of each start of the run."""
    found: list[list[Record]] = []
    for record in records:
        if record.get("event") == "start":
            found.append([])
        elif "loss" in record:
            found[-1].append(record)
    return found


def shares(steps: Sequence[Record]) -> dict[str, float]:
    """Phases as parts of the wall time between the first of these steps and the last."""
    wall_sec = steps[-1]["time"] - steps[0]["time"]
    seconds = dict.fromkeys(PHASES, 0.0)
    for before, record in pairwise(steps):
        for phase in PHASES:  # of each a mean over the steps since the record before
            seconds[phase] += record[f"{phase}_sec"] * (record["step"] - before["step"])
    found = {f"{phase}_share": spent / wall_sec for phase, spent in seconds.items()}
    overhead = 1 - sum(found[f"{phase}_share"] for phase in WORK)
    rest = 1 - sum(found.values())
    return {name: round(share, 5) for name, share in (found | {"rest_share": rest, "overhead_share": overhead}).items()}


if __name__ == "__main__":
    main()
