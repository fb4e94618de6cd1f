"""What W&B's offline files of a run say, read back by W&B's own reader (`wandb leet inspect`)."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OfflineRun:
    """One start of a run: RUN/wandb/offline-run-TIME-ID."""

    folder: Path
    records: list[dict[str, Any]]
    """Every record of the file, in order, as the reader prints it."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Records of one kind: run, config, history, metric, alert, exit, ..."""
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def run_id(self) -> str:
        """As in the name of the file, so of a start that was killed before anything was in it, too."""
        return next(self.folder.glob("run-*.wandb")).stem.removeprefix("run-")

    @property
    def config(self) -> dict[str, Any]:
        """As it was given at the start."""
        return self.of("run")[0]["config"]["update"]

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that were logged, in order; those that W&B refuses are not among them."""
        return [record["item"] for record in self.of("history")]

    @property
    def losses(self) -> dict[int, float]:
        """Step -> loss."""
        return {row["step"]: row["loss"] for row in self.history if "loss" in row}

    @property
    def exit_code(self) -> int | None:
        """0 finished, otherwise failed; None where the run was killed."""
        return next((record.get("exit_code", 0) for record in self.of("exit")), None)


def read(run_dir: Path) -> list[OfflineRun]:
    """One entry for each start of the run, in the order of time. A start that was killed lacks its last second."""
    return [
        OfflineRun(path.parent, _records(path))
        for path in sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    ]


def _records(path: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"WANDB_MODE": "offline"}
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
