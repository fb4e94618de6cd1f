"""`cosmos-train train RUN`: check a run, say what its ranks would hold, or start them; under torchrun, be one of them.

What reads a configuration is imported after this process listens to signals, since it takes a moment.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cosmos_launch.cli.commands import Invocation
from cosmos_launch.jobs import spawn
from cosmos_launch.jobs.stopping import listen_as_launcher, listen_as_rank
from cosmos_train.config.environment import check_not_copied, own_ranks
from cosmos_train.config.errors import ConfigError

if TYPE_CHECKING:
    from cosmos_train.config.schema import RunConfig


def train(
    run_name: str,
    overrides: Sequence[str],
    *,
    nproc: int | None,
    cluster: str | None,
    check: bool,
    dry_run: bool,
    world_size: int | None,
    as_json: bool,
    invocation: Invocation,
) -> int:
    """Do what the options ask for and return the exit code.

    Raises ConfigError where the run is not valid, options contradict each other, or the environment names other ranks.
    """
    if not dry_run and (world_size is not None or as_json):
        raise ConfigError("--world-size and --json belong to --dry-run; add it, or start ranks here with --nproc")
    num_ranks = 1 if nproc is None else nproc
    if dry_run:
        run = _load(run_name, overrides, cluster)
        return _plan(run, num_ranks if world_size is None else world_size, as_json=as_json)
    if check:
        from cosmos_train.config.validate import check_run

        run = _load(run_name, overrides, cluster)
        check_run(run, num_ranks)
        print(f"{run_name}: a valid {run.recipe} run for {num_ranks} rank{'s' * (num_ranks > 1)}")
        return 0
    if cluster is not None:
        raise ConfigError("--cluster belongs to --check and --dry-run; `cosmos-train submit` queues a run on a cluster")
    return _start(run_name, overrides, nproc, invocation)


def _load(run_name: str, overrides: Sequence[str], cluster: str | None) -> "RunConfig":
    """Read the run; with a cluster, as it would be there."""
    from cosmos_train.config.load import load_run, load_run_on_cluster

    if cluster is None:
        return load_run(run_name, overrides)
    run, _ = load_run_on_cluster(run_name, cluster, overrides)
    return run


def _plan(run: "RunConfig", world_size: int, *, as_json: bool) -> int:
    from cosmos_train.config.validate import check_run

    if world_size < 1:
        raise ConfigError(f"--world-size {world_size} must be at least 1")
    check_run(run, world_size)  # before torch is imported
    from cosmos_launch.cli.dry_run import dry_run

    return dry_run(run, world_size, as_json=as_json)


def _start(run_name: str, overrides: Sequence[str], nproc: int | None, invocation: Invocation) -> int:
    """Start the ranks here, or be the rank that torchrun or srun has started."""
    ranks, stop = own_ranks(nproc), None
    if invocation.is_whole_process:
        stop = listen_as_rank() if ranks.is_given else listen_as_launcher()
    from cosmos_launch.jobs import worker
    from cosmos_launch.jobs.run_folder import check_run_folder
    from cosmos_train.config.load import load_run
    from cosmos_train.config.validate import check_run

    run = load_run(run_name, overrides)
    num_ranks = 1 if nproc is None else nproc
    check_run(run, ranks.world_size if ranks.is_given else num_ranks)
    words = [run_name, *overrides]
    if invocation.debug:
        words.append("--debug")
    if ranks.is_given:
        return worker.main(words, stop)
    if nproc is None:
        check_not_copied()
    check_run_folder(run)
    command = [sys.executable, "-m", "cosmos_launch.jobs.worker", *words]
    return spawn.run_ranks(command, num_ranks, threads_per_rank=run.train.threads_per_rank, stop=stop)
