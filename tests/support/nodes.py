"""A node of a job with two ranks (cosmos_launch.jobs.node), as srun starts it."""

import os
import subprocess
import sys
from pathlib import Path

FT_LAUNCHER = Path(sys.prefix) / "ft_launcher"
"""Where `make setup` puts nvidia-resiliency-ext."""


def start_node(
    run_yaml: Path | str, failures: Path, launcher: str = "torchrun", *, module: str = "cosmos_launch.jobs.worker"
) -> subprocess.Popen:
    """Its process. failures: where ranks write down what they fail of; module: what each of them runs."""
    port = 20000 + os.getpid() % 10000
    own = {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "COSMOS_TRAIN_FAILURES": str(failures)}
    own |= {"PYTHONPATH": os.pathsep.join([str(FT_LAUNCHER), *sys.path]), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "cosmos_launch.jobs.node", str(run_yaml), "2", launcher, "2", module]
    return subprocess.Popen(line, env=os.environ | own, stderr=subprocess.DEVNULL)
