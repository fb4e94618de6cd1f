"""Runs on a real Slurm: two nodes on this host (slurm/testcluster), real jobs, and what befalls them on a cluster.

Each test submits with `cosmos-train submit`, does one kind of harm while the run trains, and sees it end with the
losses of a run to which nothing happened. It needs Debian's slurm-wlm and munge, and to be root.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_train.config.load import to_yaml
from cosmos_train.parallel.config import ParallelConfig

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "slurm" / "testcluster" / "cluster.sh"
NUM_STEPS = 60
SETTINGS = {"num_steps": NUM_STEPS, "global_batch_size": 8}
LIMIT_SEC = 600.0
ATTEMPT_SEC = 20.0
"""Within so much a failure must end all ranks of a job."""

missing = subprocess.run([CLUSTER, "missing"], capture_output=True, text=True, check=True).stdout.split()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing), reason=f"not here: {', '.join(missing)} (apt-get install slurm-wlm munge)"),
]


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

    def state(self) -> str:
        shown = subprocess.run(["scontrol", "show", "job", self.number], capture_output=True, text=True, check=True)
        return shown.stdout.split("JobState=")[1].split()[0]

    def rank_pid(self, rank: int) -> int:
        """The process of a rank of this run, which on this cluster is a process of this host."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    line = (folder / "cmdline").read_bytes().split(b"\0")
                    environment = (folder / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                is_worker = b"cosmos_launch.worker" in line and any(str(self.run_dir).encode() in word for word in line)
                if is_worker and f"RANK={rank}".encode() in environment:
                    return int(folder.name)
        raise AssertionError(f"there is no rank {rank} of {self.run_dir}\n{self.log}")


def wait_until(reached: Callable[[], bool], job: Job, what: str, limit_sec: float = LIMIT_SEC) -> float:
    """Seconds that it took."""
    started = time.monotonic()
    while not reached():
        assert time.monotonic() - started < limit_sec, f"{what}: not in {limit_sec} s\n{job.log}"
        time.sleep(0.2)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster")
    for parent in (folder, *folder.parents):
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o711)  # munged, which is not root, finds its socket
    ports = {"FIRST_PORT": str(30000 + os.getpid() % 2000 * 3)}  # beside the cluster of another checkout
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=60, env=os.environ | ports)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run([CLUSTER, "stop", folder], check=True)
    del os.environ["SLURM_CONF"]
    if before is not None:
        os.environ["SLURM_CONF"] = before


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="module")
def undisturbed(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    """Losses of the same run on two ranks that nobody disturbs."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    settings = SETTINGS | {"checkpoint": {"every_steps": NUM_STEPS}}
    ranks(2).run(training.run_loop, cache, run_dir, ParallelConfig(), settings)
    return training.losses(run_dir)


@pytest.fixture
def submit(cluster: Path, cache: Path, tmp_path: Path) -> Callable[..., Job]:
    """submit(nodes, *overrides): queue the tiny world's run by the command."""

    def submit(nodes: str, *overrides: str) -> Job:
        run_dir = tmp_path / "run"
        (tmp_path / "run.yaml").write_text(to_yaml(tiny_world.make_run(cache, run_dir, ParallelConfig(), **SETTINGS)))
        line = ["submit", str(tmp_path / "run.yaml"), "--cluster", "cpu_two_nodes", "--nodes", nodes, *overrides]
        line += ["checkpoint.every_steps=20"]
        command = [sys.executable, "-m", "cosmos_launch.cli", *line]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return Job(done.stdout.split()[1].rstrip(":"), run_dir)

    return submit


def wait_for_step(job: Job, step: int) -> None:
    wait_until(lambda: max(job.losses, default=0) >= step, job, f"step {step}")


def has_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(status["ShdPnd"], 16) & 1 << number - 1)


def start_again_at_once(job: Job) -> None:
    """Slurm lets a job that it preempted wait for two minutes."""
    wait_until(lambda: job.state() == "PENDING", job, "the queue")
    while job.state() == "PENDING":  # from the moment that its processes are gone
        subprocess.run(["scontrol", "update", f"JobId={job.number}", "StartTime=now"], capture_output=True)
        time.sleep(1.0)


def wait_for_end(job: Job) -> None:
    wait_until(lambda: job.state() in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), job, "the end")
    assert job.state() == "COMPLETED", job.log
    assert job.log.endswith("cosmos-train: done\n")


def test_preempted_requeued_and_continued_as_if_nothing_had_happened(
    submit: Callable[..., Job], undisturbed: dict[int, float], tmp_path: Path
):
    job = submit("2", "tracking.wandb=offline", "checkpoint.asynchronous=true")
    wait_for_step(job, 5)
    line = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", f"--output={tmp_path}/high.log"]
    subprocess.run([*line, "--wrap", "sleep 2"], check=True, capture_output=True)
    wait_until(lambda: "stopped" in job.log, job, "the save")
    start_again_at_once(job)
    wait_for_end(job)
    assert f"attempt {job.number}.1 on n[1-2]" in job.log
    events = training.events(job.run_dir)
    told = [event["event"] for event in events if event["event"] in ("start", "stop", "done")]
    assert told == ["start", "stop", "start", "done"]
    assert job.losses == undisturbed
    names = [folder.name for folder in (job.run_dir / "wandb").glob("offline-run-*")]
    assert len(names) == 2 and len({name.rsplit("-", 1)[1] for name in names}) == 1, names


def test_time_limit_reached_requeued_and_finished(submit: Callable[..., Job], undisturbed: dict[int, float]):
    job = submit("2", "cluster.stop_before_limit_sec=170", "checkpoint.asynchronous=true")
    started = time.monotonic()
    wait_for_step(job, 5)
    held = [job.rank_pid(rank) for rank in range(2)]
    for pid in held:  # or the run would be done before Slurm looks at its limits, which it does every half minute
        os.kill(pid, signal.SIGSTOP)
    update = ["scontrol", "update", f"JobId={job.number}"]
    in_two_minutes = int((time.monotonic() - started) / 60) + 2
    subprocess.run([*update, f"TimeLimit={in_two_minutes}"], check=True)  # less than stop_before_limit_sec from now
    wait_until(lambda: all(has_pending(pid, signal.SIGUSR1) for pid in held), job, "the signal before the limit")
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "stopped, in the queue again" in job.log, job, "the queue")
    subprocess.run([*update, "TimeLimit=60"], check=True)
    wait_for_end(job)
    assert "stop" in [event["event"] for event in training.events(job.run_dir)]
    assert job.losses == undisturbed


def test_a_killed_rank_is_named_and_the_run_tried_again(submit: Callable[..., Job], undisturbed: dict[int, float]):
    job = submit("2", "checkpoint.asynchronous=true")
    wait_for_step(job, 25)
    os.kill(job.rank_pid(1), signal.SIGKILL)
    took_sec = wait_until(lambda: "the first error was" in job.log, job, "the first error")
    assert took_sec < ATTEMPT_SEC, "in seconds, not at the timeout of a collective"
    told = [line for line in job.log.splitlines() if "cosmos-train: " in line][-1]
    assert told == "cosmos-train: the first error was of rank 1 on n2: it was ended by SIGKILL"
    wait_for_end(job)
    assert "in the queue again after a crash, retry 1 of 3" in job.log
    assert job.losses == undisturbed


def test_a_stopped_rank_is_found_by_the_watchdog(submit: Callable[..., Job], undisturbed: dict[int, float]):
    job = submit("2", "train.hang_sec=20")
    wait_for_step(job, 5)
    os.kill(job.rank_pid(1), signal.SIGSTOP)
    wait_until(lambda: "the first error was" in job.log, job, "the watchdog")
    assert "no step was finished in 20 s (train.hang_sec); rank 1 gave no sign" in job.log
    assert "run_steps" in (job.run_dir / "stacks" / "rank-00000.txt").read_text()
    wait_for_end(job)
    assert job.losses == undisturbed


def test_a_lost_node_leaves_the_run_to_the_other(
    submit: Callable[..., Job], undisturbed: dict[int, float], cluster: Path
):
    job = submit("1-2")
    wait_for_step(job, 25)
    killed = [job.rank_pid(1), int((cluster / "slurmd.n2.pid").read_text())]
    steps = subprocess.run(["pgrep", "-f", rf"slurmstepd: \[{job.number}\."], capture_output=True, text=True).stdout
    killed += [int(pid) for pid in steps.split() if "n2" in Path(f"/proc/{pid}/environ").read_text(errors="ignore")]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    try:
        wait_for_end(job)
    finally:
        subprocess.run([CLUSTER, "node", cluster, "n2"], check=True)
    starts = [event for event in training.events(job.run_dir) if event["event"] == "start"]
    assert [start["ranks"] for start in starts] == [2, 1]
    assert job.losses == pytest.approx(undisturbed, rel=1e-5)


def test_wrong_input_is_not_tried_again(submit: Callable[..., Job], cache: Path):
    job = submit("2", f"latents.folder={cache.parent}/nowhere")
    wait_until(lambda: job.state() == "FAILED", job, "the end")
    assert job.log.splitlines()[-1].startswith("cosmos-train: the first error was of rank ")
    assert "nowhere" in job.log.splitlines()[-1] and "retry" not in job.log


def test_a_hostile_name_is_a_name(cluster: Path, cache: Path, tmp_path: Path):
    """Slurm shows it as it is, and no shell has read it."""
    name = "a\"; touch pwned; $(touch pwned) `touch pwned` it's && #x"
    run_dir = tmp_path / name
    run = tiny_world.make_run(cache, run_dir, ParallelConfig(), num_steps=1)
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    line = ["submit", "run.yaml", "--cluster", "cpu_two_nodes", "--nodes", "1", "cluster.health_check=exit 1"]
    command = [sys.executable, "-m", "cosmos_launch.cli", *line, "cluster.max_retries=0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    job = Job(done.stdout.split()[1].rstrip(":"), run_dir)
    shown = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%j", f"--jobs={job.number}"], capture_output=True, text=True
    )
    assert shown.stdout == f"{name}\n"
    wait_until(lambda: job.state() == "FAILED", job, "the end")
    assert job.log.endswith("the first error was of rank - on n1: the health check of the node failed\n")
    assert not list(tmp_path.rglob("pwned"))
    assert (run_dir / "slurm" / "crashes.tsv").read_text().split("\t")[1] == "n1"
