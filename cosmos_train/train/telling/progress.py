"""Progress of anything that may take longer than five seconds: a bar with the time left on a terminal, else lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_SEC = 5.0


@contextmanager
def progress(title: str, unit: str, *, is_told: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with (done, total) whenever something is done. is_told: False where another process
    tells of its own."""
    if not is_told:
        yield lambda done, total: None
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(title), MofNCompleteColumn(), TextColumn(unit), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    yield _Lines(title, unit)


class _Lines:
    """A line every few seconds, and one at the end."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = title, unit
        self.started = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < LINE_EVERY_SEC and done < total:
            return
        self.last = now
        left_sec = (now - self.started) / max(done, 1) * (total - done)
        left = f", {left_sec:.0f} s left" if done < total else f" in {now - self.started:.1f} s"
        print(f"{self.title}: {done}/{total} {self.unit}{left}", flush=True)
