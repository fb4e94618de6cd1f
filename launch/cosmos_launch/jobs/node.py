"""One node of a Slurm job: `python -m cosmos_launch.jobs.node RUN.yaml RANKS LAUNCHER RESTARTS MODULE`.

srun starts it, one process a node. Each rank runs MODULE: cosmos_launch.jobs.worker, which trains, or
cosmos_launch.jobs.encode_rank, which makes the run's latent cache (under torchrun). LAUNCHER is torchrun or ft_launcher
(cosmos_launch.jobs.resilient, which starts ranks again, RESTARTS times). It is called as a function: so the run's own
exit code comes out of it, where a launcher's is 1 for everything, and a rank that was killed is written down with its
host. torchrun is told of this node by Slurm's variables, and of the first node by MASTER_ADDR and MASTER_PORT, which
slurm/train.sbatch sets.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

import psutil

from cosmos_launch.jobs import resilient
from cosmos_launch.jobs.failure import end_children, failures_folder, leave, report_failure, write_down
from cosmos_launch.jobs.spawn import record_exit
from cosmos_launch.jobs.stopping import ASKED, LAUNCHER
from cosmos_train.config.errors import ConfigError
from cosmos_train.train.signals import STOP_SIGNALS, STOPPED, StopSignals, end_with_parent

PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl: orphans below this process become its children."""
SHUTDOWN_SEC = 5
"""Ranks of a node on which one failed get this long to leave by themselves."""


def main(arguments: list[str]) -> int:
    """Run this node's ranks. Returns 0, 75 where all stopped to be queued again, or the first failure's code."""
    from cosmos_train.config.load import load_run

    run_yaml, num_ranks, launcher, max_restarts, module = arguments
    threads = load_run(run_yaml).train.threads_per_rank
    own_cpus = int(os.environ.get("SLURM_CPUS_ON_NODE", 1))
    os.environ["OMP_NUM_THREADS"] = str(threads or max(1, own_cpus // int(num_ranks)))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        if launcher == "torchrun":
            return _run_torchrun(module, run_yaml, num_ranks)
        return _run_ft_launcher(run_yaml, int(num_ranks), int(max_restarts))
    finally:
        # A rank that was killed leaves the processes that write its checkpoints, and srun would wait for their output.
        end_children()


def _listen() -> None:
    """To the end of this process: who waits for the ranks goes on waiting. What this process is asked they are told.

    Slurm signals every process of a job; ranks that are not there yet find a file.
    """
    StopSignals(_pass_on).start()
    os.register_at_fork(after_in_child=_begin_fork)


def _begin_fork() -> None:
    """ft_launcher forks processes that watch ranks, and ends them by SIGTERM. Ranks are no forks, and stay deaf."""
    end_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _pass_on(_received: Sequence[int]) -> None:
    folder = failures_folder()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ASKED).touch()
    for rank in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGTERM)


def _run_ft_launcher(run_yaml: str, num_ranks: int, max_restarts: int) -> int:
    try:
        resilient.check_installed()
    except ConfigError as error:
        write_down(error, rank=int(os.environ["SLURM_NODEID"]) * num_ranks)
        return report_failure(error)
    ended = resilient.run_node(run_yaml, num_ranks, max_restarts)
    if isinstance(ended, int):
        return ended
    return _settle(ended) if ended else 1


def _run_torchrun(module: str, run_yaml: str, num_ranks: str) -> int:
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SEC)
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # a rank that stops is no error
    options = [
        f"--nnodes={os.environ['SLURM_NNODES']}",
        f"--node-rank={os.environ['SLURM_NODEID']}",
        f"--nproc-per-node={num_ranks}",
        f"--master-addr={os.environ['MASTER_ADDR']}",
        f"--master-port={os.environ['MASTER_PORT']}",
        "--signals-to-handle=SIGINT",
        "--module",
        module,
        run_yaml,
    ]
    try:
        torchrun.run(torchrun.get_args_parser().parse_args(options))
    except ChildFailedError as error:
        return _settle({rank: failure.exitcode for rank, failure in error.failures.items()})
    return 0


def _settle(codes: dict[int, int]) -> int:
    """Write down what the ranks themselves could not. Returns the node's exit code."""
    failed = {rank: code for rank, code in codes.items() if code != STOPPED}
    if not failed:
        return STOPPED
    folder = failures_folder()
    if folder is not None:
        for rank, code in failed.items():
            record_exit(folder, rank, code)
    rank = min(failed)
    return 128 - failed[rank] if failed[rank] < 0 else failed[rank]


if __name__ == "__main__":
    _listen()
    leave(main(sys.argv[1:]))
