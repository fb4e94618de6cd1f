"""Fixtures that several folders of tests share."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other's processes on few cores
os.environ.setdefault("WANDB_MODE", "offline")

from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig

# A shell's background job ignores Ctrl-C, and so would all that a test starts and then asks to stop.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker of `make test` runs a group in one go: all that waits for a Slurm, half of what shares the ranks, or
    what is left of a file.

    The three long ones start first. There is one Slurm: jobs of two beside each other miss their limits on two cores.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: (*LONG, group_of(item)).index(group_of(item)))


LONG = ("ranks that train", "ranks", "slurm")
"""Groups of tests, the longest first."""


def group_of(item: pytest.Item) -> str:
    """The group of a test: one of LONG, or its file."""
    folder = folder_of(item)
    if folder == "slurm":
        return "slurm"
    if not shares_ranks(item):
        return str(item.path)
    return "ranks that train" if folder in ("recipes", "train") else "ranks"


def shares_ranks(item: pytest.Item) -> bool:
    """Whether a test runs on the shared pool of ranks."""
    return isinstance(item, pytest.Function) and "ranks" in item.fixturenames


def folder_of(item: pytest.Item) -> str:
    """The folder of tests/ in which a test lies."""
    return Path(os.path.relpath(item.path, Path(__file__).parent)).parts[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was not tried, and why: one line for each reason, and the tests under it."""
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if skipped:
        terminalreporter.section("skipped, by reason")
    for reason, tests in sorted(skipped.items()):
        terminalreporter.line(f"{len(tests):4} {reason}")
        for test in sorted(set(tests)):
            terminalreporter.line(f"       {test}")


def pytest_make_parametrize_id(val: object) -> str | None:
    """A layout is called by what it divides: `tp=2 sequence_parallel=True`."""
    if not isinstance(val, ParallelConfig):
        return None
    default = asdict(ParallelConfig())
    differing = (f"{key}={value}" for key, value in asdict(val).items() if value != default[key])
    return " ".join(differing) or "one process"


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], RankPool]]:
    """ranks(n): the shared pool of n gloo processes, started at its first use."""
    pools: dict[int, RankPool] = {}

    def pool(num_ranks: int) -> RankPool:
        if num_ranks not in pools or not pools[num_ranks].is_alive:
            pools[num_ranks] = RankPool(num_ranks)
        return pools[num_ranks]

    yield pool
    for started in pools.values():
        started.close()


@pytest.fixture(scope="module", autouse=True)
def leave_groups() -> Iterator[None]:
    """A command that fails leaves its groups to the end of its process, and other modules need a process without."""
    yield
    if "cosmos_train.parallel.init" in sys.modules:
        from cosmos_train.parallel import init

        init.stop()
