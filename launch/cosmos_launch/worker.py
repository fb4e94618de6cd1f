"""One rank of a training run: `python -m cosmos_launch.worker RUN.yaml [section.key=value ...]`.

Started by `cosmos-train train`, or by torchrun or srun with the same arguments. Ends with the run's exit code.
"""

import logging
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from cosmos_launch.failure import failures_folder, host_name, leave, report_failure, write_down
from cosmos_train.config.load import load_run, to_yaml
from cosmos_train.config.schema import RunConfig


def main(arguments: list[str]) -> int:
    """Train. Arguments: the YAML, then overrides; `--debug` anywhere shows tracebacks."""
    debug = "--debug" in arguments
    config, *overrides = [argument for argument in arguments if argument != "--debug"]
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    for name in ("cosmos_train", "cosmos_data", "cosmos_tok"):
        logging.getLogger(name).setLevel(logging.INFO if rank == 0 else logging.WARNING)
    try:
        return run_rank(load_run(config, overrides))
    except BaseException as error:
        write_down(error, rank=rank)
        return report_failure(error, rank=rank, debug=debug)


def run_rank(run: RunConfig) -> int:
    """Join the groups, make the task, train."""
    import torch.distributed as dist

    from cosmos_train.parallel import init
    from cosmos_train.recipes.table import make_task
    from cosmos_train.train.loop import train

    mesh = init.start(run.parallel, seed=run.seed)
    code_version = describe_code()
    if mesh.is_main:
        write_run_folder(run, code_version)
    exit_code = train(
        run,
        make_task(run, mesh),
        mesh,
        wandb_online="WANDB_API_KEY" in os.environ,
        code_version=code_version,
        host=host_name(),
        failures=failures_folder(),
    )
    # All leave together: torchrun takes a rank that stopped before the others for one that failed, and ends them.
    dist.barrier(group=mesh.world)
    init.stop()
    return exit_code


def write_run_folder(run: RunConfig, code_version: str) -> None:
    """What the run is reproduced from: resolved YAML, code version and changes, versions of what it stands on."""
    folder = Path(run.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(to_yaml(run))
    (folder / "code.diff").write_text(_git("diff", "HEAD"))
    lines = [f"cosmos-train {code_version}", f"python {platform.python_version()}", f"host {platform.node()}"]
    lines += [f"{name} {version(name)}" for name in ("torch", "megatron-core", "omegaconf", "numpy", "av")]
    (folder / "environment.txt").write_text("\n".join(lines) + "\n")


def describe_code() -> str:
    """Release, and the commit where the code is a git checkout (`+changes` where it differs from it)."""
    commit = _git("rev-parse", "--short=12", "HEAD").strip()
    if not commit:
        return version("cosmos-train")
    return f"{version('cosmos-train')} {commit}{'+changes' if _git('status', '--porcelain') else ''}"


def _git(*arguments: str) -> str:
    """Output of git about this code; empty where it is no checkout or there is no git."""
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
