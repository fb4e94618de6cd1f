"""Job arrays, chains of stages, nodes left out and folders held, on a real Slurm of two nodes (slurm/testcluster)."""

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import tiny_world
from support.slurm import ENDS, Job, submit

from cosmos_launch.jobs.run_lock import LOCK, Owner, training_alone
from cosmos_launch.jobs.slurm import jobs_in_queue
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run, to_yaml
from cosmos_train.parallel.config import ParallelConfig

NUM_STEPS = 12
QUICK = ("--nodes", "1", "cluster.retry_backoff_sec=1")


def write_runs(cache: Path, folder: Path, *names: str, num_steps: int = NUM_STEPS) -> list[Path]:
    """A YAML file of the tiny world for each name; their folders."""
    folders = [folder / name for name in names]
    for run_dir in folders:
        run = tiny_world.make_run(cache, run_dir, ParallelConfig(), num_steps=num_steps)
        (folder / f"{run_dir.name}.yaml").write_text(to_yaml(run))
    return folders


def kill_rank_0(job: Job) -> None:
    os.kill(json.loads((job.run_dir / "training.json").read_text())["pid"], signal.SIGKILL)


class Task(Job):
    """Of an array, whose log lies beside the runs' folders."""

    @property
    def log(self) -> str:
        path = self.run_dir.parent / "slurm" / f"{self.number}.log"
        return path.read_text() if path.exists() else ""


@pytest.mark.long
def test_a_task_of_an_array_that_crashes_is_tried_again_alone(cluster: Path, cache: Path, tmp_path: Path):
    run_dir = write_runs(cache, tmp_path, "run", num_steps=40)[0]
    line = ["run.yaml", *QUICK, "checkpoint.every_steps=10"]
    array = submit(tmp_path, *line, "--each", "seed=3,4").partition("_")[0]
    tasks = [Task(f"{array}_{task}", run_dir / f"seed-{seed}") for task, seed in enumerate((3, 4))]
    with pytest.raises(AssertionError, match=f"is trained by job {array}_0, which is "):
        submit(tmp_path, *line, f"run_dir={tasks[0].run_dir}")
    # The plain number of one of its tasks is that of the whole array: a requeue of it would take the others along.
    shown = subprocess.run(["squeue", "--noheader", "--array", "--format=%A %F_%K"], capture_output=True, text=True)
    assert f"{array} {array}_1\n" in shown.stdout
    tasks[1].wait_for_step(15)
    kill_rank_0(tasks[1])
    tasks[1].wait_until(lambda: "the first error was of rank 0" in tasks[1].log, "the crash")
    for task in tasks:
        task.wait_for_end()
    assert "in the queue again after a crash, retry 1 of 3" in tasks[1].log
    starts = [[start["step"] for start in task.events("start")] for task in tasks]
    assert starts in ([[0], [0, 10]], [[0], [0, 20]], [[0], [0, 30]]), (
        "from the newest checkpoint by the time of the kill"
    )
    assert [load_run(str(task.run_dir / "run.yaml")).seed for task in tasks] == [3, 4]
    suspects = [(task.run_dir / "slurm" / "suspects.txt").read_text().split() for task in tasks]
    assert [len(names) for names in suspects] == [0, 1]


def test_each_stage_of_a_chain_starts_from_the_newest_checkpoint_of_the_one_before(
    cluster: Path, cache: Path, tmp_path: Path
):
    """The second one post-trains: a camera's path and actions steer what the first one has trained."""
    write_runs(cache, tmp_path, "first")
    steered = tiny_world.make_run(cache, tmp_path / "second", ParallelConfig(), tiny_world.STEERED, num_steps=NUM_STEPS)
    gains = dataclasses.replace(steered.checkpoint, init_new=("net.embed.weight", "net.action.*"))
    (tmp_path / "second.yaml").write_text(to_yaml(dataclasses.replace(steered, checkpoint=gains)))
    # The first attempt fails: a stage that is tried again is not one that failed.
    once = f"cluster.health_check='test -e {tmp_path}/tried || (touch {tmp_path}/tried && false)'"
    first = submit(tmp_path, "first.yaml", "second.yaml", "--chain", *QUICK, once)
    stages = [Job(str(int(first) + k), tmp_path / name) for k, name in enumerate(("first", "second"))]
    assert stages[1].state() == "PENDING"
    with pytest.raises(AssertionError, match=f"is trained by job {stages[1].number}, which is pending"):
        submit(tmp_path, "second.yaml", *QUICK)
    for stage in stages:
        stage.wait_for_end()
    assert "in the queue again after a crash, retry 1 of 3" in stages[0].log
    newest = tmp_path / "first" / "checkpoints" / f"step-{NUM_STEPS:08d}"
    assert f"started from {newest}: checkpoint.init_from" in stages[1].log
    assert stages[1].losses[1] < 0.9 * stages[0].losses[1]


def test_a_chain_whose_first_stage_fails_ends(cluster: Path, cache: Path, tmp_path: Path):
    write_runs(cache, tmp_path, "first", "second")
    line = ["cluster.health_check=exit 1", "cluster.max_retries=0"]
    first = submit(tmp_path, "first.yaml", "second.yaml", "--chain", *QUICK, *line)
    second = Job(str(int(first) + 1), tmp_path / "second")
    second.wait_until(lambda: second.state() in ENDS, "the end")
    assert second.state() == "CANCELLED" and second.log == ""


def excluded(job: Job) -> str:
    shown = subprocess.run(["scontrol", "show", "job", job.number], capture_output=True, text=True, check=True)
    return shown.stdout.split("ExcNodeList=")[1].split()[0]


@pytest.mark.parametrize(
    ("own", "spared", "state", "left_out"),
    [([], "n2", "COMPLETED", "n1"), (["cluster.sbatch_options=[--exclude=n2]"], "none", "FAILED", "n2")],
    ids=["another node is left", "no other node is left"],
)
def test_a_node_that_fails_twice_is_left_out_where_another_is_left(
    cluster: Path, cache: Path, tmp_path: Path, own: list[str], spared: str, state: str, left_out: str
):
    """Its health check does not answer. Without another node the job would wait for ever."""
    write_runs(cache, tmp_path, "run", num_steps=1)
    check = f"cluster.health_check='test $SLURMD_NODENAME = {spared} || sleep 1000'"
    line = [check, "cluster.health_check_sec=1", "cluster.max_retries=2", *own]
    job = Job(submit(tmp_path, "run.yaml", *QUICK, *line), tmp_path / "run")
    job.wait_for_end(state)
    assert excluded(job) == left_out, job.log
    assert job.log.count("the first error was of rank - on n1: the health check of the node failed\n") >= 2


@pytest.mark.long
def test_a_job_that_can_not_save_before_its_limit_is_queued_again_in_time(cluster: Path, cache: Path, tmp_path: Path):
    write_runs(cache, tmp_path, "run", num_steps=10_000)
    job = Job(submit(tmp_path, "run.yaml", *QUICK), tmp_path / "run")
    job.wait_for_step(1)
    os.kill(json.loads((job.run_dir / "training.json").read_text())["pid"], signal.SIGSTOP)
    job.update("EndTime=now+20")  # 15 s before it the job goes back to the queue, saved or not
    subprocess.run(["scancel", "--batch", "--signal=USR1", job.number], check=True)  # as Slurm does before a limit
    job.wait_until(lambda: "in the queue again after a crash, retry 1 of 3" in job.log, "the queue")
    assert "the time limit came before the run was saved; see cluster.stop_before_limit_sec" in job.log
    job.wait_until(lambda: job.state() in ("PENDING", "RUNNING"), "the next attempt")
    subprocess.run(["scancel", job.number], check=True)


def test_a_folder_is_held_by_a_job_that_runs_on_another_host(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    line = ["sbatch", "--parsable", f"--output={tmp_path}/log", "--wrap", "sleep 1000"]
    held = subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
    other = Job(held, tmp_path)
    other.wait_until(lambda: other.state() == "RUNNING", "the start")
    (tmp_path / LOCK).write_text(json.dumps(dataclasses.asdict(Owner("elsewhere", 1, 0.0, held))))
    with pytest.raises(ConfigError, match=f"process 1 on host elsewhere of Slurm job {held}"), training_alone(tmp_path):
        pass
    lock = (tmp_path / LOCK).read_text()
    with monkeypatch.context() as requeued:
        requeued.setenv("SLURM_JOB_ID", held)
        with training_alone(tmp_path):
            pass
    (tmp_path / LOCK).write_text(lock)
    subprocess.run(["scancel", held], check=True)
    other.wait_until(lambda: not jobs_in_queue([held]), "the end")
    with training_alone(tmp_path):
        pass
