"""One training at a time in a run's folder: RUN/training.json names the process that trains there.

Two at once would remove each other's half-written checkpoints. Locks of file systems are not used, since those of
clusters do not all have them: whoever comes finds out whether the named process or its Slurm job is still there. So
what was killed, or ran on a node that is gone, holds nobody up.
"""

import contextlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cosmos_launch.jobs.slurm import jobs_in_queue, own_job
from cosmos_train.config.errors import ConfigError
from cosmos_train.train.checkpoint.folder import remove
from cosmos_train.train.telling.text_file import write_new

log = logging.getLogger(__name__)
LOCK = "training.json"
CLOCK_SEC = 5.0
"""Start times of one process may differ by so much: they are counted from the machine's start, whose time is set."""
ATTEMPTS = 20
"""At a lock that others take away and write meanwhile."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that trains: rank 0 of a run."""

    host: str
    pid: int
    started: float
    """Unix time; tells it from a later process of the same number."""
    job: str | None
    """Of Slurm; None outside of it."""

    @classmethod
    def this_process(cls) -> "Owner":
        """The one that calls."""
        return cls(platform.node(), os.getpid(), psutil.Process().create_time(), own_job())

    @property
    def is_elsewhere(self) -> bool:
        """Whether nobody can be asked about it: it runs on another host, in no job, or in one of an unknown Slurm."""
        return self.host != platform.node() and (self.job is None or shutil.which("squeue") is None)

    def still_trains(self) -> bool:
        """Whether its process lives on this host, or its job, another than ours, runs on others."""
        if self.host == platform.node():
            return self._is_alive()
        if self.job is None or self.job == own_job():
            return False
        return jobs_in_queue([self.job]).get(self.job, "PENDING") != "PENDING"

    def _is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started) < CLOCK_SEC
            return is_same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@contextlib.contextmanager
def training_alone(run_dir: Path) -> Iterator[None]:
    """Hold the folder while the block runs.

    Raises:
        ConfigError: another training holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock, mine = run_dir / LOCK, Owner.this_process()
    _take(lock, mine)
    try:
        yield
    finally:
        if _owner(lock) == mine:
            lock.unlink()


def _take(lock: Path, mine: Owner) -> None:
    """Write the lock where there is none, which of several only one can do; one whose owner is gone is taken away."""
    text = json.dumps(asdict(mine))
    for _ in range(ATTEMPTS):
        if write_new(lock, text):
            return
        left = _identity(lock)
        _check_is_free(lock)
        # Only the file that was looked at: another start may have taken that one away by now, and written its own.
        gone = lock.with_name(f".{LOCK}.{mine.host}.{mine.pid}")
        with contextlib.suppress(FileNotFoundError):
            lock.rename(gone)
            if _identity(gone) == left:
                remove(gone)
            else:
                _give_back(gone, lock)
    raise ConfigError(f"run_dir={lock.parent}: others start to train there again and again; start one of them alone")


def _give_back(taken: Path, lock: Path) -> None:
    with contextlib.suppress(FileExistsError):
        lock.hardlink_to(taken)
    remove(taken)


def _identity(lock: Path) -> tuple[int, int, int] | None:
    try:
        found = lock.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _check_is_free(lock: Path) -> None:
    owner = _owner(lock)
    if owner is None:
        return
    if owner.still_trains():
        job = f" of Slurm job {owner.job}" if owner.job else ""
        raise ConfigError(
            f"run_dir={lock.parent} is being trained by process {owner.pid} on host {owner.host}{job}, and two "
            "trainings would remove each other's checkpoints; wait for it or end it, or use another run_dir. If it is "
            f"certainly gone, remove {lock}"
        )
    if owner.is_elsewhere:
        log.warning(
            "%s names process %d on host %s, and nobody can be asked whether it still trains; make sure it is gone",
            lock,
            owner.pid,
            owner.host,
        )


def _owner(lock: Path) -> Owner | None:
    """Who wrote it; None where nobody did, or what lies there names no process, as after a crash of the machine."""
    try:
        owner = Owner(**json.loads(lock.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        log.warning("%s names no process that trains (%s), and is passed over", lock, error)
        return None
    types = {"host": (str,), "pid": (int,), "started": (int, float), "job": (str, type(None))}
    for name, allowed in types.items():
        if not isinstance(getattr(owner, name), allowed):
            log.warning("%s says %s=%r, which names no process, and is passed over", lock, name, getattr(owner, name))
            return None
    return owner
