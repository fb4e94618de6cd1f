"""What befalls a run on a cluster, on a real Slurm: two nodes on this host (slurm/testcluster) and real jobs.

Each test submits with `cosmos-train submit`, does one kind of harm while the run trains, and sees it end with the
losses of a run to which nothing happened.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import tiny_world, wandb_files
from support.slurm import CLUSTER, ENDS, Job, has_pending, lost_processes, submit

from cosmos_train.config.load import to_yaml
from cosmos_train.parallel.config import ParallelConfig

ATTEMPT_SEC = 40.0
"""Within so much a failure must end all ranks of a job, where a collective would wait for half an hour."""


def test_preempted_requeued_and_continued_as_if_nothing_had_happened(
    submit_world: Callable[..., Job], undisturbed: dict[int, float], tmp_path: Path
):
    job = submit_world("2", "checkpoint.asynchronous=true")
    job.wait_for_step(5)
    line = ["sbatch", "--partition=high", "--nodes=2", "--exclusive", f"--output={tmp_path}/high.log"]
    subprocess.run([*line, "--wrap", "sleep 2"], check=True, capture_output=True)
    job.wait_until(lambda: "stopped" in job.log, "the save")
    job.start_again_at_once()
    job.wait_for_end()
    assert f"attempt {job.number}.1 on n[1-2]" in job.log
    assert [event["event"] for event in job.events("start", "stop", "done")] == ["start", "stop", "start", "done"]
    assert job.losses == undisturbed


@pytest.mark.long
def test_time_limit_reached_requeued_and_finished(submit_world: Callable[..., Job], undisturbed: dict[int, float]):
    job = submit_world("2", "cluster.stop_before_limit_sec=170", "checkpoint.asynchronous=true")
    started = time.monotonic()
    job.wait_for_step(5)
    held = [job.rank_pid(rank) for rank in range(2)]
    for pid in held:  # or the run would be done before Slurm looks at its limits, which it does every half minute
        os.kill(pid, signal.SIGSTOP)
    in_two_minutes = int((time.monotonic() - started) / 60) + 2
    job.update(f"TimeLimit={in_two_minutes}")  # less than stop_before_limit_sec from now
    job.wait_until(lambda: all(has_pending(pid, signal.SIGUSR1) for pid in held), "the signal before the limit")
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    job.wait_until(lambda: "stopped, in the queue again" in job.log, "the queue")
    job.update("TimeLimit=60")
    assert job.wait_until(lambda: job.state() == "RUNNING", "the next attempt") < 60, "Slurm's own wait is two minutes"
    job.wait_for_end()
    # What waits for the limit beside the ranks is gone with its attempt, and does not queue the next one again.
    assert [event["event"] for event in job.events("start", "stop", "done")] == ["start", "stop", "start", "done"]
    assert job.losses == undisturbed


@pytest.mark.long
def test_a_killed_rank_is_named_and_a_corrupt_checkpoint_passed_over(
    submit_world: Callable[..., Job], undisturbed: dict[int, float]
):
    job = submit_world("2", "tracking.wandb=offline", "checkpoint.asynchronous=true")
    newest = job.run_dir / "checkpoints" / "step-00000040"
    job.wait_until((newest / "complete.json").exists, "the second checkpoint")
    os.kill(job.rank_pid(1), signal.SIGKILL)
    took_sec = job.wait_until(lambda: "the first error was" in job.log, "the first error")
    assert took_sec < ATTEMPT_SEC, "in seconds, not at the timeout of a collective"
    damaged = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        file.write(b"not what was saved")
    assert job.first_error == "cosmos-train: the first error was of rank 1 on n2: it was ended by SIGKILL"
    job.wait_for_end()
    assert "in the queue again after a crash, retry 1 of 3" in job.log
    first, second = job.events("start")
    assert (first["step"], second["step"]) == (0, 20) and "a newer one is damaged" in second["source"]
    assert job.losses == undisturbed
    assert_one_wandb_run(job)


def assert_one_wandb_run(job: Job) -> None:
    """What W&B keeps of the two starts, read back: one run, and both have the steps that were rolled back."""
    first, second = wandb_files.read(job.run_dir)
    assert first.run_id == second.run_id
    assert (min(first.losses), min(second.losses)) == (1, 21)
    assert max(first.losses) >= 40, "rolled back to 20"
    assert first.losses | second.losses == job.losses


@pytest.mark.long
def test_a_stopped_rank_is_found_by_the_watchdog(submit_world: Callable[..., Job], undisturbed: dict[int, float]):
    job = submit_world("2", "train.hang_sec=25")
    job.wait_for_step(5)
    os.kill(job.rank_pid(1), signal.SIGSTOP)
    job.wait_until(lambda: "the first error was" in job.log, "the watchdog")
    assert "no step was finished in 25 s (train.hang_sec); rank 1 gave no sign" in job.log
    assert job.first_error.startswith("cosmos-train: the first error was of rank 1 on n2: ")
    assert (job.run_dir / "slurm" / "suspects.txt").read_text() == "n2\n"
    assert "run_steps" in (job.run_dir / "stacks" / "rank-00000.txt").read_text()
    job.wait_for_end()
    assert job.losses == undisturbed


@pytest.mark.long
def test_a_lost_node_leaves_the_run_to_the_other(
    submit_world: Callable[..., Job], undisturbed: dict[int, float], cluster: Path
):
    job = submit_world("1-2")
    job.wait_for_step(25)
    for pid in lost_processes(job, cluster, "n2"):
        os.kill(pid, signal.SIGKILL)
    try:
        job.wait_for_end()
    finally:
        subprocess.run([CLUSTER, "node", cluster, "n2"], check=True)
    assert [start["ranks"] for start in job.events("start")] == [2, 1]
    assert job.losses == pytest.approx(undisturbed, rel=1e-5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the run's checkpoints."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.long
def test_a_full_disk_leaves_the_checkpoint_before(
    small_disk: Path, submit_world: Callable[..., Job], undisturbed: dict[int, float]
):
    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", small_disk], check=True)

    job = submit_world("2")
    first = small_disk / "step-00000020"
    job.wait_until((first / "complete.json").exists, "the first checkpoint")
    resize(str(sum(path.stat().st_size for path in first.iterdir()) * 3 // 2))
    job.wait_until(lambda: "the first error was" in job.log, "the full disk")
    resize("1g")
    assert "the disk is full" in job.first_error, job.log
    job.wait_for_end()
    assert [start["step"] for start in job.events("start")] == [0, 20]
    assert job.losses == undisturbed


def test_wrong_input_is_not_tried_again(submit_world: Callable[..., Job], cache: Path, tmp_path: Path):
    moved = tmp_path / "latents"
    moved.symlink_to(cache)
    removing = ["sbatch", "--parsable", f"--output={tmp_path}/removing.log", "--wrap", f"rm {moved}"]
    before = subprocess.run(removing, check=True, capture_output=True, text=True).stdout.strip()
    job = submit_world("2", f"latents.folder={moved}", "--after", before)
    job.wait_until(lambda: job.state() in ENDS, "the end")
    assert job.state() == "FAILED"
    assert str(moved) in job.first_error and "retry" not in job.log


def test_a_hostile_name_is_a_name(cluster: Path, cache: Path, tmp_path: Path):
    """Slurm shows it as it is, and no shell has read it."""
    name = "a\"; touch pwned; $(touch pwned) `touch pwned` it's && #x"
    run_dir = tmp_path / name
    run = tiny_world.make_run(cache, run_dir, ParallelConfig(), num_steps=1)
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    refused = ["cluster.health_check=exit 1", "cluster.max_retries=0"]
    job = Job(submit(tmp_path, "run.yaml", "--nodes", "1", *refused), run_dir)
    shown = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%j", f"--jobs={job.number}"], capture_output=True, text=True
    )
    assert shown.stdout == f"{name}\n"
    job.wait_until(lambda: job.state() == "FAILED", "the end")
    assert job.log.endswith("the first error was of rank - on n1: the health check of the node failed\n")
    assert not list(tmp_path.rglob("pwned"))
    assert (run_dir / "slurm" / "crashes.tsv").read_text().split("\t")[1] == "n1"


def test_asked_before_the_first_step_it_is_queued_again_and_no_node_is_suspected(
    submit_world: Callable[..., Job], tmp_path: Path
):
    """While the health check goes on, which all of the job's processes are told, and while a rank imports."""

    def ask() -> None:
        told = job.log.count("stopped, in the queue again")
        subprocess.run(["scancel", "--batch", "--signal=USR1", job.number], check=True)
        job.wait_until(lambda: job.log.count("stopped, in the queue again") > told, "the queue")

    check = f"test -e {tmp_path}/checked || (touch {tmp_path}/checked; sleep 600)"
    job = submit_world("1", f"cluster.health_check={check}", "cluster.health_check_sec=600")
    job.wait_until((tmp_path / "checked").exists, "the health check")
    ask()
    job.start_again_at_once()
    job.wait_until(lambda: job.has_rank(0), "a rank")
    ask()
    subprocess.run(["scancel", job.number], check=True)
    assert not job.losses and "before the first step: nothing is lost" in job.log
    for name in ("suspects.txt", "crashes.tsv"):
        assert (job.run_dir / "slurm" / name).read_text() == ""
