"""What a run says on rank 0's console: on a terminal one bar with the time left, elsewhere a line a logged step."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

FORMS = {
    "loss": "loss {:.4g}",
    "grad_norm": "grad_norm {:.4g}",
    "lr": "lr {:.4g}",
    "step_sec": "{:.4g} s/step",
    "samples_per_sec": "{:.4g} samples/s",
    "tokens_per_sec": "{:.4g} tokens/s",
    "mfu": "mfu {:.1%}",
    "data_wait_share": "data_wait {:.1%}",
}
"""Shown of a step's values, in this order, where it has them."""
ON_BAR = ("samples_per_sec", "tokens_per_sec", "mfu", "data_wait_share")


class RunConsole:
    """Shows steps as they are done."""

    def __init__(self, *, num_steps: int, first_step: int) -> None:
        self.num_steps, self.first_step, self.started = num_steps, first_step, time.monotonic()
        self.speed = ""
        console = Console()
        self.bar = _progress_bar(console) if console.is_terminal else None
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=num_steps, completed=first_step, figures="")

    def step(self, step: int, values: Mapping[str, float], *, is_logged: bool) -> None:
        """Move the bar, or print the line of a logged step."""
        if self.bar is None:
            if is_logged:
                left_sec = (time.monotonic() - self.started) / (step - self.first_step) * (self.num_steps - step)
                print(f"step {step}/{self.num_steps}  {_shown(values, FORMS)}  left {_minutes(left_sec)}", flush=True)
            return
        if is_logged:
            self.speed = _shown(values, ON_BAR)
        self.bar.update(self.task, completed=step, figures=f"{_shown(values, ['loss'])}  {self.speed}")

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.stop()


def _shown(values: Mapping[str, float], names: Mapping[str, str] | list[str] | tuple[str, ...]) -> str:
    return "  ".join(FORMS[name].format(values[name]) for name in names if name in values)


def _progress_bar(console: Console) -> Progress:
    """The figures come last: on a narrow terminal they are cut first."""
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
    )


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
