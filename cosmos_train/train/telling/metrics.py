"""What a run says of itself: metrics.jsonl (rank 0, a line a write), the console, Weights & Biases."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.telling.alerts import SpeedAlerts
from cosmos_train.train.telling.console import RunConsole
from cosmos_train.train.telling.journal import Journal
from cosmos_train.train.telling.results import Results
from cosmos_train.train.telling.wandb_run import WandbRun, choose_id, choose_mode

log = logging.getLogger(__name__)


class Metrics:
    """Rank 0's writer; make none on other ranks. `with Metrics(...)` ends it, too.

    Args:
        first_step: steps done at this start.
        wandb_id: of the checkpoint that this start goes on from, where it is the run's own.
        run_config: all of it.
        start: what is told of this start (train.checkpoint.lineage).
    """

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingConfig,
        *,
        num_steps: int,
        first_step: int,
        wandb_id: str | None,
        run_config: Mapping[str, Any],
        start: Mapping[str, Any],
    ) -> None:
        self.last_step = first_step
        self.exit_code = 1
        """What W&B is told at the end; of a run that is ended by an exception, this."""
        self.journal = Journal(run_dir)
        self.journal.event("start", step=first_step, **start)
        self.wandb: WandbRun | None = None
        self.wandb_id: str | None = None
        """Id of the W&B run, for the checkpoint."""
        mode = choose_mode(tracking).mode
        if mode != "disabled":
            self.wandb_id = choose_id(run_dir, wandb_id)
            starts = [*self.journal.events("start"), {"step": first_step, **start}]
            self.wandb = WandbRun(
                run_dir,
                tracking,
                run_id=self.wandb_id,
                config={**run_config, "start": dict(start), "starts": starts},
                first_row=self.journal.num_rows(first_step),
                mode=mode,
            )
        self.results = Results(run_dir, self.journal)
        self.console = RunConsole(num_steps=num_steps, first_step=first_step)
        self.alerts = SpeedAlerts(tracking)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.console.close()
        self.tell_results()
        if self.wandb is not None:
            self.wandb.finish(self.exit_code)
        self.journal.close()

    def step(self, step: int, values: Mapping[str, float], *, is_logged: bool) -> None:
        """Count a step; write its values where it is one that is logged."""
        self.last_step = step
        self.console.step(step, values, is_logged=is_logged)
        if not is_logged:
            return
        self.journal.step(step, values)
        if self.wandb is not None:
            self.wandb.log(step, values)
        for cause, sentence in self.alerts.check(values).items():
            self.alert(cause, sentence, step=step)

    def event(self, kind: str, **details: Any) -> None:
        """Something that is not a step: start, save, skipped, failed."""
        self.journal.event(kind, **details)

    def alert(self, cause: str, sentence: str, *, step: int) -> None:
        """Something that somebody should look at, while the run goes on."""
        log.warning("step %d: %s", step, sentence)
        self.event("alert", step=step, cause=cause, sentence=sentence)
        if self.wandb is not None:
            self.wandb.alert(cause, f"step {step}: {sentence}")

    def tell_results(self) -> None:
        """Tell W&B what other commands have left in the run's folder meanwhile."""
        if self.wandb is not None:
            self.results.tell(self.wandb, self.last_step)
