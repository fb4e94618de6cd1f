"""What metrics.jsonl says of a run over all its starts: the steps that count, and what happened."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_train.train.telling import journal

Record = dict[str, Any]


@dataclass(frozen=True)
class RunRecords:
    """What a run's folder says of its steps."""

    steps: list[Record]
    """Logged steps, rising: of those that were rolled back and trained again, what they were the last time."""
    events: list[Record]
    """Starts, saves, failures, ... as they came."""
    num_rolled_back: int
    """Logged steps that do not count: the run went on from a checkpoint before them."""
    last_sec: float
    """Time of the last line that has one; 0 where there is none."""

    @property
    def step(self) -> int:
        """How far the run is, as far as it has said."""
        started = [event["step"] for event in self.events if event["event"] == "start"]
        return max([*started[-1:], *(record["step"] for record in self.steps[-1:])], default=0)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a metrics.jsonl. Lines that a crash has damaged are left out, and named in a warning.

    A step has numbers alone, and a time is a number: what else a line says, such as null, is as if it were not there.
    """
    records, damaged = journal.read_records(Path(path))
    for line in damaged:
        journal.warn_of(Path(path), line, "left out")
    return [
        {name: value for name, value in record.items() if _can_be(name, value, of_event="event" in record)}
        for record in records
    ]


def _can_be(name: str, value: Any, *, of_event: bool) -> bool:
    if of_event and name != "time":
        return value is not None
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def read_records(run_dir: Path) -> RunRecords:
    """Read what a run has said; it is empty before the run's first start."""
    path = run_dir / "metrics.jsonl"
    records = read_metrics(path) if path.is_file() else []
    steps: list[Record] = []
    num_logged = 0
    for record in records:
        if record.get("event") == "start":
            steps = [kept for kept in steps if kept["step"] <= record["step"]]
        elif "event" not in record:
            steps.append(record)
            num_logged += 1
    events = [record for record in records if "event" in record]
    times = [record["time"] for record in records if "time" in record]
    return RunRecords(steps, events, num_logged - len(steps), times[-1] if times else 0.0)


def said(event: Record, name: str) -> str:
    """Return a text that an event says, or that it lacks it."""
    value = event.get(name)
    return value if isinstance(value, str) else f"({name} is not noted)"
