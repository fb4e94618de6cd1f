"""What Slurm is asked: to queue a script, and which jobs it still has. Slurm need not be here."""

import os
import subprocess
from collections.abc import Collection
from pathlib import Path

ASK_SEC = 120
"""A controller that is busy answers within so long."""


class SubmitError(OSError):
    """Slurm refused a job, or is not there. Exit code 1."""


def queue(script: Path, cluster: str) -> str:
    """Hand a batch script to sbatch. Returns the job's number.

    Raises:
        SubmitError: Slurm did not take it.
    """
    try:
        done = subprocess.run(["sbatch", "--parsable", script], capture_output=True, text=True, timeout=ASK_SEC)
    except FileNotFoundError as error:
        raise SubmitError(f"there is no sbatch here; on a login node of {cluster}: sbatch {script}") from error
    if done.returncode:
        raise SubmitError(f"sbatch refused {script}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().split(";")[0]


def jobs_in_queue(jobs: Collection[str]) -> dict[str, str]:
    """Job -> state, such as PENDING or RUNNING, of those that have not ended. None where Slurm can not be asked.

    Args:
        jobs: numbers, of one task of an array as 12_3.
    """
    if not jobs:
        return {}
    # %F_%K and not %i: of tasks that wait, squeue shows a single line unless asked for --array.
    line = ["squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%F_%K %T"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=ASK_SEC)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    found = (entry.split() for entry in done.stdout.splitlines())
    return {name.removesuffix("_N/A"): state for name, state in found}


def own_job() -> str | None:
    """The job that this process belongs to, of an array the task; None outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def describe_job() -> dict[str, str]:
    """What a run tells of the job that it belongs to; nothing outside of Slurm."""
    job, cluster = own_job(), os.environ.get("SLURM_CLUSTER_NAME")
    told = {"slurm_job_id": job, "cluster": cluster}
    return {name: value for name, value in told.items() if value is not None}
