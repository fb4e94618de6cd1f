"""What a start of a run begins from, whether it may, and where it runs: its `start` event, which W&B shows too.

No torch in here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosmos_data.sample_plan.order import SAMPLE_ORDER
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import RunConfig
from cosmos_train.train.checkpoint.folder import CHECKPOINTS, CheckpointError, Progress, read_progress, resolve


def is_own(folder: Path, run_dir: Path) -> bool:
    """Whether a checkpoint is the run's own, and not the one that it began from."""
    return folder.resolve().parent == (run_dir / CHECKPOINTS).resolve()


def describe_start(
    folder: Path | None,
    reason: str,
    *,
    layout: str,
    hosts: Sequence[str],
    code_version: str,
    job: Mapping[str, str],
) -> dict[str, Any]:
    """What is told of a start.

    Args:
        folder: checkpoint or exported folder from which it begins; None from scratch.
        reason: why from there.
        hosts: of each rank.
        job: what the scheduler calls it, such as its id and cluster; empty without one.
    """
    told: dict[str, Any] = {"source": reason, "layout": layout, "ranks": len(hosts), "nodes": len(set(hosts))}
    told |= {"host": hosts[0], "code_version": code_version, **job}
    if folder is not None:
        told["from_folder"] = str(folder)
        progress = _progress_of(folder)
        if progress is not None:
            told |= {"from_step": progress.step, "from_wandb_id": progress.wandb_id}
            told["from_code_version"] = progress.code_version
    return told


def check_continues(progress: Progress, run: RunConfig, data_digest: str, folder: Path) -> None:
    """A resumed run must go on with the data and seed it had: else samples repeat or are lost without a word."""
    if progress.data_digest != data_digest:
        raise ConfigError(
            f"{folder} was trained on data with digest {progress.data_digest[:12]}, but the configured data has "
            f"{data_digest[:12]}; restore the data, or start another run with checkpoint.init_from={folder}"
        )
    if progress.sample_order != SAMPLE_ORDER:
        raise ConfigError(
            f"{folder} was trained in sample order {progress.sample_order}, and this cosmos-train draws samples in"
            f" order {SAMPLE_ORDER}: some would come twice and others never; finish the run with the cosmos-train that"
            f" began it, or start another one with checkpoint.init_from={folder}"
        )
    if progress.seed != run.seed:
        raise ConfigError(
            f"seed={run.seed}, but {folder} was trained with seed {progress.seed}; set seed={progress.seed}"
        )
    if progress.samples_consumed != progress.step * run.train.global_batch_size:
        raise ConfigError(
            f"train.global_batch_size={run.train.global_batch_size}, but {folder} consumed "
            f"{progress.samples_consumed} samples in {progress.step} steps; "
            f"set train.global_batch_size={progress.samples_consumed // max(1, progress.step)}"
        )


def _progress_of(folder: Path) -> Progress | None:
    """None of what is no checkpoint of ours, such as a released model."""
    try:
        return read_progress(resolve(folder))
    except CheckpointError:
        return None
