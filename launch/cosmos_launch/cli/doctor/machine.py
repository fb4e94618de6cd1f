"""W&B, ranks, Slurm, and the machine itself."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from cosmos_launch.cli.doctor.finding import Finding, of_package
from cosmos_train.config.environment import own_ranks
from cosmos_train.config.errors import ConfigError

MIN_DISK_GIB, MIN_SHM_GIB = 5, 1


def probe_wandb() -> Finding:
    """Say whether runs are tracked online, and why."""
    finding = of_package("wandb", "wandb", "no tracking: metrics.jsonl is written all the same", "W&B")
    if finding.status != "ok":
        return finding
    from cosmos_train.train.config import TrackingConfig
    from cosmos_train.train.telling.wandb_run import choose_mode

    try:
        chosen = choose_mode(TrackingConfig())
    except ConfigError as error:
        return Finding("W&B", "wrong", f"{finding.detail}; {error}", "set it to one of these")
    return Finding("W&B", "ok", f"{finding.detail}; runs are {chosen.mode}: {chosen.why}")


def probe_ranks() -> Finding:
    """Say which rank this process is, by what its starter tells it or an earlier one has left in this shell."""
    try:
        given = own_ranks()
    except ConfigError as error:
        return Finding("ranks", "wrong", str(error), "runs here end with this error")
    if not given.is_given:
        return Finding("ranks", "ok", "none are given: a run starts as many as --nproc says")
    return Finding("ranks", "ok", f"this process is rank {given.rank} of {given.world_size}, by RANK and WORLD_SIZE")


def probe_slurm() -> Finding:
    """Look for Slurm's commands, and ask them who they are."""
    lacking = [command for command in ("sbatch", "srun") if not shutil.which(command)]
    if lacking:
        cost = f"no {' and no '.join(lacking)}: nothing can be submitted from here"
        return Finding("Slurm", "missing", cost, "submit from the cluster's login node")
    asked = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10)
    if asked.returncode:
        said = asked.stderr.strip().splitlines()
        why = f"it is installed, and does not know its cluster: {said[-1] if said else 'sbatch said nothing'}"
        return Finding(
            "Slurm", "wrong", why, "set SLURM_CONF to the cluster's slurm.conf, or submit from its login node"
        )
    job = os.environ.get("SLURM_JOB_ID")
    return Finding("Slurm", "ok", f"{asked.stdout.strip()}, {f'inside job {job}' if job else 'not inside a job'}")


def probe_machine() -> Finding:
    """Count cores and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("cores and memory", "ok", f"{cores} cores, {memory_gib:.0f} GiB, {platform.machine()}")


def probe_disk() -> Finding:
    """Look for room in the current folder."""
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    detail = f"{free_gib:.1f} GiB free in {Path.cwd()}"
    if free_gib < MIN_DISK_GIB:
        return Finding("disk", "wrong", f"{detail}: a checkpoint may not fit", "free some, or run elsewhere")
    return Finding("disk", "ok", detail)


def probe_shm() -> Finding:
    """Look for room where processes share memory."""
    if not Path("/dev/shm").is_dir():
        return Finding("/dev/shm", "missing", "data workers cannot share memory", "set the number of data workers to 0")
    size_gib = shutil.disk_usage("/dev/shm").total / 2**30
    if size_gib < MIN_SHM_GIB:
        why = f"{size_gib:.2f} GiB: data workers die with a bus error when it is full"
        return Finding("/dev/shm", "wrong", why, "start the container with --shm-size=8g or --ipc=host")
    return Finding("/dev/shm", "ok", f"{size_gib:.1f} GiB")
