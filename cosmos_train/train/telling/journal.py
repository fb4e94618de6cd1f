"""RUN/metrics.jsonl: what a run says of itself, over all its starts. A line a write, on rank 0. No torch in here.

{"step": 20, "time": ..., "loss": ...}               a logged step
{"event": "save", "time": ..., "step": 20, ...}      anything else

A crash of the machine, or a failing disk, may leave a line that is none of these. It is no reason not to train: who
reads passes over it, and the next start sets it aside, in RUN/metrics.damaged.jsonl.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosmos_train.train.telling.text_file import write_whole

log = logging.getLogger(__name__)
NAME, DAMAGED = "metrics.jsonl", "metrics.damaged.jsonl"
SHOWN_BYTES = 60
"""A warning shows so much of a damaged line."""


@dataclass(frozen=True, slots=True)
class DamagedLine:
    """A line that is no record."""

    number: int
    """In its file, from 1."""
    why: str
    content: str
    """Each byte as the character of that number."""


def read_records(path: Path) -> tuple[list[dict[str, Any]], list[DamagedLine]]:
    """Read what a metrics.jsonl says, and what in it can not be read; what a crash has torn at its end is neither.

    Zeros before a record, where a file had grown without being written, are damage, and the record is one.
    """
    *lines, torn = path.read_bytes().split(b"\n")
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        why = _problem(line)
        if why:
            damaged.append(DamagedLine(number, why, line.decode("latin-1")))
        if not why or not _problem(line.strip(b"\0")):
            records.append(json.loads(line.strip(b"\0")))
    if torn and not _problem(torn):  # it may be whole all the same
        records.append(json.loads(torn))
    return records, damaged


def warn_of(path: Path, damaged: DamagedLine, what_happens: str) -> None:
    """Name a damaged line."""
    shown = damaged.content.encode("latin-1")[:SHOWN_BYTES]
    log.warning("%s:%d: %s and is %s: %r", path, damaged.number, damaged.why, what_happens, shown)


def _problem(line: bytes) -> str:
    """Why a line is no record; empty where it is one."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "the line is not UTF-8"
    except (ValueError, RecursionError):
        return "the line is not JSON"
    is_record = isinstance(record, dict) and type(record.get("step")) is int and 0 <= record["step"] < 2**63
    return "" if is_record and isinstance(record.get("event", ""), str) else "the line is neither a step nor an event"


class Journal:
    """Opened to be written on.

    A crash may have torn the last line. It is cut off: what is written next must not be glued to it. Damaged lines are
    set aside.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / NAME
        path.touch()
        self._cut_torn_line(path)
        self.records, damaged = read_records(path)
        """That were there before."""
        if damaged:
            self._set_aside(path, damaged)
        aside = run_dir / DAMAGED
        self.num_damaged = aside.read_bytes().count(b"\n") if aside.is_file() else 0
        self.file = path.open("a", buffering=1, encoding="utf-8")

    @staticmethod
    def _cut_torn_line(path: Path) -> None:
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end != len(content):
            os.truncate(path, end)

    def _set_aside(self, path: Path, damaged: list[DamagedLine]) -> None:
        for line in damaged:
            warn_of(path, line, f"set aside in {path.with_name(DAMAGED)}")
        try:
            with path.with_name(DAMAGED).open("a", encoding="utf-8") as aside:
                aside.writelines(json.dumps({"time": time.time()} | asdict(line)) + "\n" for line in damaged)
            write_whole(path, "".join(json.dumps(record) + "\n" for record in self.records))
        except OSError as error:
            log.warning("%s: damaged lines stay in it: %s", path, error)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Those that were there before."""
        return [record for record in self.records if record.get("event") in kinds]

    def num_rows(self, step: int) -> int:
        """At least as many as earlier starts have told W&B, of a run that has done `step` steps.

        Each is a line here, or was one before it was damaged. A run that came from another folder told up to one a step
        there.
        """
        starts = self.events("start")
        return len(self.records) + self.num_damaged + (starts[0]["step"] if starts else step)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a logged step."""
        self._write({"step": step, "time": time.time(), **values})

    def event(self, kind: str, **details: Any) -> None:
        """Something that is not a step: start, save, skipped, failed."""
        self._write({"event": kind, "time": time.time(), **details})

    def close(self) -> None:
        """No more is written."""
        self.file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")
