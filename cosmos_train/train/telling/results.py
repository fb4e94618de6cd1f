"""What other commands leave in a run's folder, as tables for W&B.

RUN/samples/**/NAME.mp4 beside NAME.json    of `cosmos-train sample`; the JSON is written last
RUN/evaluation*.json                        of `cosmos-train evaluate world`: a row for each held-out window
"""

import contextlib
import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.signals import DONE, STOPPED
from cosmos_train.train.telling.journal import Journal
from cosmos_train.train.telling.wandb_run import ResultTable, WandbRun, choose_id, choose_mode

log = logging.getLogger(__name__)

SAMPLED = ("step", "seed", "prompt", "input", "averaged_weights", "num_frames", "fps")
"""Told of a video, from its JSON."""


class Results:
    """Those of a run's folder; W&B is told of each once, over all starts of the run."""

    def __init__(self, run_dir: Path, journal: Journal) -> None:
        self.run_dir, self.journal = run_dir, journal
        self.told: set[str] = set()
        for event in journal.events("results"):
            files = event.get("files")
            self.told |= {str(name) for name in files} if isinstance(files, list) else set()

    def new(self) -> list[ResultTable]:
        """Of which nobody was told yet."""
        try:
            return list(new_results(self.run_dir, self.told))
        except (OSError, ValueError, KeyError, IndexError) as error:  # being written, or another's: not the run's fault
            log.warning("results in %s can not be read now: %r", self.run_dir, error)
            return []

    def tell(self, wandb: WandbRun, step: int) -> None:
        """Tell of what is new."""
        for table in self.new() if wandb.is_live else ():
            wandb.log_results(step, table)
            self.journal.event("results", step=step, files=table.files)
            self.told |= {*table.files}


def tell_after_training(run_dir: Path, tracking: TrackingConfig) -> None:
    """Tell W&B of what is new in the folder of a run that is not being trained: only one process may write to a run."""
    with contextlib.closing(Journal(run_dir)) as journal:
        results = Results(run_dir, journal)
        mode = choose_mode(tracking).mode
        if mode == "disabled" or not results.new():
            return
        ends = journal.events("done", "stop", "failed")
        last = ends[-1] if ends else {"event": "failed", "step": 0}
        wandb = WandbRun(
            run_dir,
            tracking,
            run_id=choose_id(run_dir, None),
            config={},
            first_row=journal.num_rows(last["step"]),
            mode=mode,
        )
        results.tell(wandb, last["step"])
        wandb.finish({"done": DONE, "stop": STOPPED, "failed": 1}[last["event"]])


def new_results(run_dir: Path, told: Collection[str]) -> Iterator[ResultTable]:
    """Of files that were not told of before."""
    videos = tuple(
        path
        for path in sorted((run_dir / "samples").rglob("*.mp4"))
        if path.with_suffix(".json").is_file() and str(path.relative_to(run_dir)) not in told
    )
    if videos:
        names = [str(path.relative_to(run_dir)) for path in videos]
        facts = [json.loads(path.with_suffix(".json").read_text()) for path in videos]
        rows = [[name, *(fact.get(key) for key in SAMPLED)] for name, fact in zip(names, facts, strict=True)]
        yield ResultTable("samples", ("file", *SAMPLED), rows, names, videos)
    for path in sorted(run_dir.glob("evaluation*.json")):
        if path.name not in told:
            facts = json.loads(path.read_text())
            columns = ("step", *facts["windows"][0])
            rows = [[facts["step"], *window.values()] for window in facts["windows"]]
            yield ResultTable(path.stem, columns, rows, [path.name])
