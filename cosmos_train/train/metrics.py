"""What a run says of itself: metrics.jsonl (rank 0, a line a write), the console, Weights & Biases.

On a terminal there is one progress bar with the time left; elsewhere plain lines. W&B goes on under the same run id
after a restart, because the id lies in the checkpoint.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.signals import deaf_children

log = logging.getLogger(__name__)
NumberT = TypeVar("NumberT", float, Tensor)
SUM, COUNT = ":sum", ":count"
"""Ends of the names of two values whose ratio is meant: what not every batch has, such as a range of noise levels."""
LOG = ":log"
"""Ends a metric's name, before these, of which exp of the ratio is meant."""


def as_ratio(name: str, total: NumberT, count: NumberT) -> dict[str, NumberT]:
    """A metric that is a mean over what `count` counts, in the form that `ratios` puts together."""
    return {name + SUM: total, name + COUNT: count}


def as_perplexity(name: str, nll: NumberT, count: NumberT) -> dict[str, NumberT]:
    """exp of a mean over what `count` counts, of which `nll` is the sum in nats."""
    return as_ratio(name + LOG, nll, count)


def ratios(values: Mapping[str, float]) -> dict[str, float]:
    """Means or sums of metrics -> the same, each sum and its count as one number; left out where nothing counted."""
    found = {name: value for name, value in values.items() if not name.endswith((SUM, COUNT))}
    for name, total in values.items():
        count = values.get(name.removesuffix(SUM) + COUNT, 0.0)
        if name.endswith(SUM) and count > 0:
            mean = total / count
            found[name.removesuffix(SUM).removesuffix(LOG)] = math.exp(mean) if name.endswith(LOG + SUM) else mean
    return found


class Metrics:
    """Rank 0's writer. On other ranks, make none."""

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingConfig,
        *,
        num_steps: int,
        first_step: int,
        wandb_id: str | None,
        wandb_online: bool,
        run_config: Mapping[str, Any],
    ) -> None:
        self.num_steps, self.first_step, self.started = num_steps, first_step, time.monotonic()
        self.file = _open_for_append(run_dir / "metrics.jsonl")
        with deaf_children():
            self.wandb = _start_wandb(run_dir, tracking, wandb_id, run_config, online=wandb_online)
        self.wandb_id: str | None = None if self.wandb is None else self.wandb.id
        """Id of the W&B run, for the checkpoint."""
        self.console = Console()
        self.bar = _progress_bar(self.console) if self.console.is_terminal else None
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=num_steps, completed=first_step, loss="")

    def step(self, step: int, values: Mapping[str, float], *, is_logged: bool) -> None:
        """Count a step; write its values where it is one that is logged."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, loss=f"loss {values['loss']:.4f}")
        if not is_logged:
            return
        self._write({"step": step, "time": time.time(), **values})
        self._tell_wandb(lambda run: run.log(dict(values), step=step))
        if self.bar is None:
            left = (time.monotonic() - self.started) / (step - self.first_step) * (self.num_steps - step)
            names = [name for name in ("loss", "grad_norm", "lr", "step_sec", "mfu") if name in values]
            shown = "  ".join(f"{name} {values[name]:.4g}" for name in names)
            print(f"step {step}/{self.num_steps}  {shown}  left {_minutes(left)}", flush=True)

    def event(self, kind: str, **details: Any) -> None:
        """Something that is not a step: start, resume, save, stop."""
        self._write({"event": kind, "time": time.time(), **details})

    def close(self) -> None:
        """End the bar, the file and the W&B run."""
        if self.bar is not None:
            self.bar.stop()
        self._tell_wandb(lambda run: run.finish())
        self.file.close()

    def _tell_wandb(self, tell: Callable[[Any], None]) -> None:
        """W&B has a process of its own. Should that be gone, the run is not: metrics.jsonl has everything."""
        if self.wandb is None:
            return
        try:
            tell(self.wandb)
        except Exception as error:  # of many classes, and none of them a reason to lose a run
            log.warning("W&B is left out from here on (%s); metrics.jsonl has everything", error)
            self.wandb = None

    def _write(self, record: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")


def _open_for_append(path: Path) -> IO[str]:
    """A crash may have torn the last line; what is written next must not be glued to it."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
    return path.open("a", buffering=1, encoding="utf-8")


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _start_wandb(
    run_dir: Path, tracking: TrackingConfig, wandb_id: str | None, run_config: Mapping[str, Any], *, online: bool
) -> Any:
    if tracking.wandb == "disabled":
        return None
    import wandb

    mode = tracking.wandb if tracking.wandb != "auto" else "online" if online else "offline"
    settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
    run = wandb.init(
        project=tracking.project,
        dir=run_dir,
        id=wandb_id,
        resume="allow" if mode == "online" else None,
        mode="online" if mode == "online" else "offline",
        name=run_dir.name,
        config=dict(run_config),
        settings=settings,
    )
    log.info("W&B %s run %s", mode, run.id)
    return run
