"""One node of a Slurm job under nvidia-resiliency-ext's ft_launcher: after a failure the ranks start again in the job.

It is torchrun with a rendezvous that survives the loss of ranks, so what torchrun leaves to the queue happens within
seconds: every rank ends, starts again and goes on from the newest checkpoint, as often as cluster.max_retries says. The
job is queued again only after that. To the launcher each exit code but 0 is a failure; so ranks that stopped to be
queued again end with 0, too, and how the run ended stands in the folder of failures:

    FAILURES/ended              exit code of the run, 0 or 75
    FAILURES/restart-N/rank-*   what ranks failed of in the Nth start; those of the last one become the job's
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cosmos_launch.jobs import worker
from cosmos_launch.jobs.failure import FAILURES, failures_folder, host_name, leave
from cosmos_launch.jobs.stopping import listen_as_rank
from cosmos_train.config.errors import ConfigError
from cosmos_train.train.signals import STOPPED, StopSignals

PACKAGE = "nvidia_resiliency_ext"
STOP_SEC = 5
"""Ranks get this long to leave by themselves before they are started again."""
RESTART = "TORCHELASTIC_RESTART_COUNT"
"""Variable that the launcher sets for its ranks: how often they were started before."""


def check_installed() -> None:
    """Raises ConfigError where the package is not there. Asked on the node: a login node may lack what a node has."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"cluster.launcher=ft_launcher needs nvidia-resiliency-ext, which {sys.executable} on {host_name()} does "
            "not have; pip install nvidia-resiliency-ext there, or set cluster.launcher=torchrun"
        )


def options(run_yaml: str, num_ranks: int, max_restarts: int) -> list[str]:
    """Arguments of ft_launcher on this node, which Slurm's variables and MASTER_ADDR, MASTER_PORT describe."""
    is_first = int(os.environ["SLURM_NODEID"] == "0")
    return [
        f"--nnodes={os.environ['SLURM_NNODES']}",
        f"--nproc-per-node={num_ranks}",
        "--rdzv-backend=c10d",  # the only one that it has
        f"--rdzv-endpoint={os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        f"--rdzv-conf=is_host={is_first}",
        f"--rdzv-id={os.environ['SLURM_JOB_ID']}",
        f"--max-restarts={max_restarts}",
        f"--workers-stop-timeout={STOP_SEC}",
        "--module",
        __name__,
        run_yaml,
    ]


def run_node(run_yaml: str, num_ranks: int, max_restarts: int) -> int | dict[int, int]:
    """Run this node's ranks. Returns the run's exit code; where the run failed, the exit code of each rank that did."""
    os.environ.setdefault("FT_LAUNCHER_LOGLEVEL", "WARNING")
    from nvidia_resiliency_ext.fault_tolerance import launcher  # pyright: ignore[reportMissingImports]

    folder = failures_folder()
    assert folder is not None, "slurm/train.sbatch names it"
    codes: dict[int, int] = {}
    try:
        launcher.run(launcher.get_args_parser().parse_args(options(run_yaml, num_ranks, max_restarts)))
    except launcher.ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    ended = folder / "ended"
    if not codes and ended.exists():  # it also returns where it gave up for another reason
        return int(ended.read_text())
    _keep_last(folder)
    return codes


def _keep_last(folder: Path) -> None:
    """What ranks failed of in their last start is what the job failed of."""
    starts = sorted(folder.glob("restart-*"), key=lambda start: int(start.name.partition("-")[2]))
    for record in starts[-1].glob("rank-*") if starts else ():
        with contextlib.suppress(FileNotFoundError):  # another node was faster
            record.rename(folder / record.name)


def main(arguments: Sequence[str], stop: StopSignals) -> int:
    """One rank. Returns its exit code for the launcher."""
    folder = failures_folder()
    assert folder is not None, "slurm/train.sbatch names it"
    os.environ[FAILURES] = str(folder / f"restart-{os.environ[RESTART]}")  # not what other starts failed of
    code = worker.main(list(arguments), stop)
    if code not in (0, STOPPED):
        return code
    if os.environ["RANK"] == "0":
        (folder / "ended").write_text(str(code))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:], listen_as_rank()))
