"""A job on the test cluster of slurm/testcluster, as a test follows and harms it. Fixtures: tests/slurm/conftest.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support import training

CLUSTER = Path(__file__).resolve().parents[2] / "slurm" / "testcluster" / "cluster.sh"
LIMIT_SEC = 300.0
RANKS = {b"cosmos_launch.jobs.worker", b"cosmos_launch.jobs.encode_rank"}
"""What a rank's command line says it is; a node's does, too."""
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@dataclass(frozen=True)
class Job:
    """A submitted run."""

    number: str
    run_dir: Path

    @property
    def log(self) -> str:
        path = self.run_dir / "slurm" / f"{self.number}.log"
        return path.read_text() if path.exists() else ""

    @property
    def losses(self) -> dict[int, float]:
        return training.losses(self.run_dir) if (self.run_dir / "metrics.jsonl").exists() else {}

    def events(self, *kinds: str) -> list[dict]:
        return [event for event in training.events(self.run_dir) if event["event"] in kinds]

    def state(self) -> str:
        return self._shown().split("JobState=")[1].split()[0]

    def _shown(self) -> str:
        """A controller that is slow to answer ends the line sometimes, and scontrol with it, which is asked again."""
        for _ in range(5):
            shown = subprocess.run(["scontrol", "show", "job", self.number], capture_output=True, text=True)
            if shown.returncode == 0:
                return shown.stdout
            time.sleep(1.0)
        raise AssertionError(f"scontrol does not know job {self.number}: {shown.stderr}")

    def update(self, setting: str) -> None:
        subprocess.run(["scontrol", "update", f"JobId={self.number}", setting], check=True, capture_output=True)

    def has_rank(self, rank: int) -> bool:
        """Whether its process is there."""
        try:
            self.rank_pid(rank)
        except AssertionError:
            return False
        return True

    def rank_pid(self, rank: int) -> int:
        """The process of a rank of this run, which on this cluster is a process of this host."""
        for line, environment, pid in _processes():
            is_of_run = any(str(self.run_dir).encode() in word for word in line)
            if is_of_run and RANKS & {*line} and f"RANK={rank}".encode() in environment:
                return pid
        raise AssertionError(f"there is no rank {rank} of {self.run_dir}\n{self.log}")

    def wait_until(self, reached: Callable[[], bool], what: str) -> float:
        """Seconds that it took. A job that has ended will not reach it any more."""
        started = time.monotonic()
        while not reached():
            assert time.monotonic() - started < LIMIT_SEC, f"{what}: not in {LIMIT_SEC} s\n{self.log}"
            state = self.state()
            assert state not in ENDS or reached(), f"{what}: not before the end, {state}\n{self.log}"
            time.sleep(0.3)
        return time.monotonic() - started

    def wait_for_step(self, step: int) -> None:
        self.wait_until(lambda: max(self.losses, default=0) >= step, f"step {step}")

    def wait_for_end(self, expected: str = "COMPLETED") -> None:
        """It ends so, each retry started at once. A job that is done says so at the end of its log."""
        state = ""
        while state not in ENDS:
            self.wait_until(lambda: self.state() in ENDS or self._waits_for_its_time(), "the end")
            if self._waits_for_its_time():
                self._start_at_once()
            state = self.state()
        assert state == expected, self.log
        assert expected != "COMPLETED" or self.log.endswith("cosmos-train: done\n")

    def start_again_at_once(self) -> None:
        """Slurm lets a job that it preempted wait for two minutes."""
        self.wait_until(lambda: self.state() == "PENDING", "the queue")
        self._start_at_once()

    def _start_at_once(self) -> None:
        # slurmd takes no credential that was made in the second in which it killed the job, and the job would fail.
        time.sleep(2.0)
        while self.state() == "PENDING":  # from the moment that its processes are gone
            subprocess.run(["scontrol", "update", f"JobId={self.number}", "StartTime=now"], capture_output=True)
            time.sleep(1.0)

    def _waits_for_its_time(self) -> bool:
        """Whether it is in the queue for no other reason: a job that crashed is let in after a while."""
        shown = self._shown()
        return "JobState=PENDING" in shown and "Reason=BeginTime" in shown

    @property
    def first_error(self) -> str:
        """The line in which its last attempt names it; Slurm may say something after it."""
        return [line for line in self.log.splitlines() if "the first error was of rank " in line][-1]


def submit(directory: Path, *arguments: str) -> str:
    """`cosmos-train submit` with the test cluster's file, from this directory: the job's number."""
    line = ["-m", "cosmos_launch.cli", "submit", *arguments, "--cluster", "cpu_two_nodes"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, env=environment, cwd=directory)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1].rstrip(":")


def lost_processes(job: Job, cluster: Path, node: str) -> list[int]:
    """What is gone of a job when its node is: slurmd, the job's steps there, and its rank."""
    title = f"slurmstepd: [{job.number}.".encode()
    steps = [pid for line, names, pid in _processes() if title in line[0] and any(node.encode() in n for n in names)]
    return [job.rank_pid(1), int((cluster / f"slurmd.{node}.pid").read_text()), *steps]


def _processes() -> Iterator[tuple[list[bytes], list[bytes], int]]:
    """(command line, environment, number) of each process of this host."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().split(b"\0")
                yield line, (folder / "environ").read_bytes().split(b"\0"), int(folder.name)
            except OSError:
                continue


def has_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(status["ShdPnd"], 16) & 1 << number - 1)
