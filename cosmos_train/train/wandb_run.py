"""What Weights & Biases is told of a run. The one home of wandb.

All starts of a run share one id. It is made once and lies in RUN/wandb_id before the first step. A checkpoint has a
copy, which decides where a run goes on in another folder. A run that begins from another's checkpoint has its own id.

W&B drops a row whose number is not above the row's before. A run that goes back to a checkpoint trains steps again, so
rows are numbered as they come, on over all starts, and everything is drawn over `step`, which is one of the values.

Whatever fails in here is a warning: the run goes on, and metrics.jsonl has everything.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.signals import STOPPED, deaf_children

log = logging.getLogger(__name__)
ID_FILE = "wandb_id"
FLUSH_SEC = 1.0
"""So much of an offline file is lost where the run is killed; W&B's own default is 15."""
SETTINGS: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "save_code": False,
    "init_timeout": 30.0,  # the run waits for it
    "finish_timeout": 60.0,  # what is left then lies on disk, and `wandb sync` uploads it
    "allow_offline_artifacts": False,  # tables of offline files are then whole in the run's folder
    "x_transaction_log_flush_interval": FLUSH_SEC,
}


def choose_id(run_dir: Path, of_checkpoint: str | None) -> str:
    """The run's id: the checkpoint's, or that of an earlier start, or a new one. It is in RUN/wandb_id then."""
    path = run_dir / ID_FILE
    noted = path.read_text().strip() if path.is_file() else ""
    chosen = of_checkpoint or noted or secrets.token_hex(4)
    if chosen != noted:
        path.write_text(f"{chosen}\n")
    return chosen


@dataclass(frozen=True)
class ResultTable:
    """Rows of cells, and what they were read from."""

    name: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    files: list[str]
    """Within the run's folder."""
    videos: tuple[Path, ...] = ()


class WandbRun:
    """Rank 0's run at W&B.

    Args:
        config: what describes the run; W&B shows it, and finds runs by it.
        first_row: at least as many rows as earlier starts of this run have logged.
        online: upload at once; where that fails at the start, the run is written offline.
    """

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingConfig,
        *,
        run_id: str,
        config: Mapping[str, Any],
        first_row: int,
        online: bool,
    ) -> None:
        modes = ("online", "offline") if online else ("offline",)
        with deaf_children():
            self.run = _start(modes, run_dir, tracking, run_id, config)
        self.row = first_row
        if self.run is not None:
            self.row = max(first_row, self.run.starting_step)
            self._tell(lambda run: (run.define_metric("step"), run.define_metric("*", step_metric="step")))

    @property
    def is_live(self) -> bool:
        """Whether it takes in what it is told."""
        return self.run is not None

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """A row of values after a step."""
        self._tell(lambda run: run.log({"step": step, **values}, step=self.row, commit=True))
        self.row += 1

    def alert(self, title: str, text: str) -> None:
        """Mail or message to whoever asked W&B for it; of equal titles one a minute."""
        self._tell(lambda run: run.alert(title, text, level="WARN"))

    def log_results(self, step: int, table: ResultTable) -> None:
        """A table after a step, and a gallery of the videos that it is about."""

        def tell(run: Any) -> None:
            import wandb

            told: dict[str, Any] = {table.name: wandb.Table(columns=list(table.columns), data=table.rows)}
            if table.videos:
                videos = [wandb.Video(str(path), caption=path.stem, format="mp4") for path in table.videos]
                told[f"{table.name}_videos"] = videos
            run.log({"step": step, **told}, step=self.row, commit=True)

        self._tell(tell)
        self.row += 1

    def finish(self, exit_code: int) -> None:
        """End: finished (DONE), preempted (STOPPED) or failed (anything else)."""
        if exit_code == STOPPED:
            self._tell(lambda run: run.mark_preempting())
        self._tell(lambda run: run.finish(exit_code=exit_code))

    def _tell(self, tell: Callable[[Any], Any]) -> None:
        """W&B has a process of its own. Should that be gone, the run is not."""
        if self.run is None:
            return
        try:
            tell(self.run)
        except Exception as error:  # of many classes, and none of them a reason to lose a run
            log.warning("W&B is left out from here on (%s); metrics.jsonl has everything", error)
            self.run = None


def _start(
    modes: Sequence[Any], run_dir: Path, tracking: TrackingConfig, run_id: str, config: Mapping[str, Any]
) -> Any | None:
    """The run in the first of the modes in which it can be started; None where there is none."""
    for mode in modes:
        try:
            import wandb

            if mode != modes[0]:
                wandb.teardown()  # what failed holds on to the id
            run = wandb.init(
                project=tracking.project,
                dir=run_dir,
                id=run_id,
                resume="allow" if mode == "online" else None,
                mode=mode,
                name=run_dir.resolve().name,
                config=dict(config),
                settings=wandb.Settings(**SETTINGS),
            )
        except Exception as error:  # no network, a key that is not valid, a full disk
            log.warning("W&B can not be started %s: %s", mode, error)
        else:
            log.info("W&B %s run %s", mode, run.id)
            return run
    log.warning("W&B is left out; metrics.jsonl has everything")
    return None
