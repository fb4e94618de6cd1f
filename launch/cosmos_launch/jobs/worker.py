"""One rank of a training run: `python -m cosmos_launch.jobs.worker RUN.yaml [section.key=value ...]`.

Started by `cosmos-train train`, or by torchrun or srun with the same arguments. Ends with the run's exit code. It
listens to signals before it imports what takes more than a moment.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_launch.jobs.failure import failures_folder, host_name, leave, report_failure, write_down
from cosmos_launch.jobs.stopping import listen_as_rank
from cosmos_launch.jobs.text_encoding import read_text_as_utf8
from cosmos_train.config.environment import own_ranks, rank_for_messages, wandb_mode
from cosmos_train.train.signals import STOPPED, StopSignals

if TYPE_CHECKING:
    from cosmos_train.config.schema import RunConfig


def main(arguments: list[str], stop: StopSignals | None = None) -> int:
    """Train. Arguments: the YAML, then overrides; `--debug` anywhere shows tracebacks."""
    from cosmos_train.config.load import load_run

    debug = "--debug" in arguments
    config, *overrides = [argument for argument in arguments if argument != "--debug"]
    rank = rank_for_messages()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    for name in ("cosmos_train", "cosmos_data", "cosmos_tok"):
        logging.getLogger(name).setLevel(logging.INFO if rank == 0 else logging.WARNING)
    try:
        return run_rank(load_run(config, overrides), stop)
    except BaseException as error:
        write_down(error, rank=rank)
        return report_failure(error, rank=rank, debug=debug)


def run_rank(run: "RunConfig", stop: StopSignals | None = None) -> int:
    """Take the run's folder, on rank 0, and train. `stop`: what this process is asked; None where nobody listens."""
    from cosmos_launch.jobs.run_folder import check_run_folder
    from cosmos_launch.jobs.run_lock import training_alone
    from cosmos_launch.jobs.tell_wandb import stage_in

    stop = stop or StopSignals()
    if run.tracking.wandb == "auto":
        wandb_mode()  # what is wrong with it is told before ranks wait for each other
    if own_ranks().rank > 0:
        return _train(run, stop)
    check_run_folder(run)
    with training_alone(Path(run.run_dir)):
        stage_in(Path(run.run_dir))
        return _train(run, stop)


def _train(run: "RunConfig", stop: StopSignals) -> int:
    """Join the groups, make the task, train."""
    import torch.distributed as dist

    from cosmos_launch.jobs.code_version import describe_code
    from cosmos_launch.jobs.run_folder import write_run_folder
    from cosmos_launch.jobs.slurm import describe_job
    from cosmos_train.parallel import init
    from cosmos_train.recipes.table import make_task
    from cosmos_train.train.loop import stops_before_first_step, train

    mesh = init.start(run.parallel, seed=run.seed, rendezvous_sec=run.train.rendezvous_sec)
    if stops_before_first_step(stop, mesh):
        exit_code = STOPPED
    else:
        exit_code = train(
            run,
            make_task(run, mesh),
            mesh,
            code_version=describe_code(),
            host=host_name(),
            failures=failures_folder(),
            job=describe_job(),
            stop=stop,
            on_start=lambda: write_run_folder(run),
        )
    # All leave together: torchrun takes a rank that stopped before the others for one that failed, and ends them.
    dist.barrier(group=mesh.world)
    init.stop()
    return exit_code


if __name__ == "__main__":
    read_text_as_utf8()
    stop_signals = listen_as_rank()
    leave(main(sys.argv[1:], stop_signals))
