"""RUN/metrics.jsonl: what a run says of itself, over all its starts. A line a write, on rank 0. No torch in here.

{"step": 20, "time": ..., "loss": ...}               a logged step
{"event": "save", "time": ..., "step": 20, ...}      anything else
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Opened to be written on.

    A crash may have torn the last line. It is cut off: what is written next must not be glued to it.
    """

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / "metrics.jsonl"
        content = path.read_bytes() if path.exists() else b""
        end = content.rfind(b"\n") + 1
        if end != len(content):
            os.truncate(path, end)
        self.lines = content[:end].splitlines()
        """That were there before."""
        self.file = path.open("a", buffering=1, encoding="utf-8")

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Those that were there before."""
        records = (json.loads(line) for line in self.lines if b'"event"' in line)
        return [record for record in records if record.get("event") in kinds]

    def num_rows(self, step: int) -> int:
        """At least as many as earlier starts have told W&B, of a run that has done `step` steps.

        Each is a line here. A run that came from another folder told up to one a step there.
        """
        starts = self.events("start")
        return len(self.lines) + (starts[0]["step"] if starts else step)

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
