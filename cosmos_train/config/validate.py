"""What can be wrong with a run on a given number of ranks, found before torch is imported or a job is queued."""

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import RunConfig
from cosmos_train.parallel.config import check_layout


def check_run(run: RunConfig, world_size: int) -> None:
    """Degrees and batches must divide. Raises ConfigError with the values that do."""
    if world_size < 1:
        raise ConfigError(f"--nproc {world_size} must be at least 1")
    check_layout(run.parallel, world_size)
    data_parallel = world_size // run.parallel.ranks_per_replica
    at_once = run.train.micro_batch_size * data_parallel
    if run.train.global_batch_size % at_once:
        raise ConfigError(
            f"train.global_batch_size={run.train.global_batch_size} is not a multiple of "
            f"train.micro_batch_size={run.train.micro_batch_size} * {data_parallel} data-parallel ranks = {at_once}; "
            f"use a multiple of {at_once}, or another parallel.tp, pp or cp"
        )
    num_micro_batches = run.train.global_batch_size // at_once
    if run.parallel.pp_chunks > 1 and num_micro_batches % run.parallel.pp:
        raise ConfigError(
            f"parallel.pp_chunks={run.parallel.pp_chunks} sends micro-batches around in groups of parallel.pp="
            f"{run.parallel.pp}, but a step has {num_micro_batches} of them (train.global_batch_size / {at_once}); "
            f"use a global batch that is a multiple of {at_once * run.parallel.pp}, or pp_chunks=1"
        )
