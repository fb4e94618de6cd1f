"""What Weights & Biases is told of a run. The one home of wandb.

All starts of a run share one id. It is made once and lies in RUN/wandb_id before the first step. A checkpoint has a
copy, which decides where a run goes on in another folder. A run that begins from another's checkpoint has its own id.

W&B drops a row whose number is not above the row's before. A run that goes back to a checkpoint trains steps again, so
rows are numbered as they come, on over all starts, and everything is drawn over `step`, which is one of the values.

W&B's own variables and settings (WANDB_PROJECT, WANDB_NAME, WANDB_RUN_GROUP, WANDB_DIR, ...) stand over what is the
default here; what a run's configuration says stands over them, as an argument of wandb.init does.

Whatever fails in here is a warning: the run goes on, and metrics.jsonl has everything.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_train.config.environment import WandbMode, drop_empty_wandb_variables, wandb_mode, wandb_variable
from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.signals import STOPPED

log = logging.getLogger(__name__)
ID_FILE = "wandb_id"
PROJECT = "cosmos-train"
"""Where nobody names one."""
FLUSH_SEC = 1.0
"""So much of an offline file is lost where the run is killed; W&B's own default is 15."""
DEFAULTS: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "save_code": False,
    "init_timeout": 30.0,  # the run waits for it
    "finish_timeout": 60.0,  # what is left then lies on disk, and `wandb sync` uploads it
    "allow_offline_artifacts": False,  # tables of offline files are then whole in the run's folder
    "x_transaction_log_flush_interval": FLUSH_SEC,
}
"""Settings of W&B for which its environment variables have nothing else."""


@dataclass(frozen=True, slots=True)
class ChosenMode:
    """A run's values go there."""

    mode: WandbMode
    why: str
    """What says so."""


def choose_mode(tracking: TrackingConfig) -> ChosenMode:
    """What tracking.wandb says; of `auto` what WANDB_MODE or `wandb offline` says; then online where there is a key.

    Raises:
        ConfigError: WANDB_MODE is no mode.
    """
    if tracking.wandb != "auto":
        return ChosenMode(tracking.wandb, f"tracking.wandb={tracking.wandb}")
    if asked := wandb_mode():
        return ChosenMode(asked, f"WANDB_MODE={wandb_variable('MODE')}")
    try:
        return _mode_of_settings()
    except Exception as error:  # of many classes: it is not installed, or its files are damaged
        log.warning("W&B's own settings can not be read: %s", error)
        return ChosenMode("offline", "W&B's own settings can not be read")


def _mode_of_settings() -> ChosenMode:
    import wandb
    from wandb.sdk.lib import wbauth

    drop_empty_wandb_variables()
    settings = wandb.setup().settings
    if settings.mode in ("offline", "disabled"):
        return ChosenMode(settings.mode, f"`wandb {settings.mode}` was called here")
    if wandb_variable("API_KEY"):
        return ChosenMode("online", "WANDB_API_KEY is set")
    if settings.api_key or settings.identity_token_file or wbauth.read_netrc_auth(host=settings.base_url):
        return ChosenMode("online", f"`wandb login` was done for {settings.base_url}")
    return ChosenMode("offline", "there is neither WANDB_API_KEY nor a login")


def choose_id(run_dir: Path, of_checkpoint: str | None) -> str:
    """The run's id: the checkpoint's, or that of an earlier start, or WANDB_RUN_ID, or a new one.

    It is in RUN/wandb_id then, and stays: all starts of a run are one W&B run.
    """
    path, wanted = run_dir / ID_FILE, wandb_variable("RUN_ID")
    noted = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    chosen = of_checkpoint or noted or wanted or secrets.token_hex(4)
    if wanted not in (None, chosen):
        log.warning("WANDB_RUN_ID=%s is left aside: all starts of this run are W&B run %s", wanted, chosen)
    if chosen != noted:
        path.write_text(f"{chosen}\n", encoding="utf-8")
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
        mode: online uploads at once; where that fails at the start, the run is written offline.
    """

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingConfig,
        *,
        run_id: str,
        config: Mapping[str, Any],
        first_row: int,
        mode: WandbMode,
    ) -> None:
        modes = ("online", "offline") if mode == "online" else (mode,)
        self.run = _start(modes, run_dir, tracking, run_id, config, is_first=first_row == 0)
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
    modes: Sequence[Any],
    run_dir: Path,
    tracking: TrackingConfig,
    run_id: str,
    config: Mapping[str, Any],
    *,
    is_first: bool,
) -> Any | None:
    """The run in the first of the modes in which it can be started; None where there is none."""
    # What WANDB_RESUME demands of the id is for the first start: the later ones go on with the run that this made.
    resume: Any = (is_first and wandb_variable("RESUME")) or "allow"
    own = {name: value for name, value in DEFAULTS.items() if wandb_variable(name.upper()) is None}
    for mode in modes:
        try:
            import wandb

            drop_empty_wandb_variables()
            if mode != modes[0]:
                wandb.teardown()  # what failed holds on to the id
            run = wandb.init(
                project=tracking.project or wandb_variable("PROJECT") or PROJECT,
                dir=wandb_variable("DIR") or run_dir,
                id=run_id,
                resume=resume if mode == "online" else None,
                mode=mode,
                name=wandb_variable("NAME") or run_dir.resolve().name,
                config=dict(config),
                settings=wandb.Settings(**own),
            )
        except Exception as error:  # no network, a key that is not valid, a full disk
            log.warning("W&B can not be started %s: %s", mode, error)
        else:
            log.info("W&B %s run %s", mode, run.id)
            return run
    log.warning("W&B is left out; metrics.jsonl has everything")
    return None
