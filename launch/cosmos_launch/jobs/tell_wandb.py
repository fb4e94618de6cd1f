"""A run's folder and W&B: results of `sample` and `evaluate` in it are told to the run."""

import os
from pathlib import Path

from cosmos_launch.jobs.run_lock import training_alone
from cosmos_train.config.errors import ConfigError
from cosmos_train.train.config import TrackingConfig


def stage_in(run_dir: Path) -> None:
    """What W&B keeps of tables until they are uploaded lies in the run's folder, and not in this node's home."""
    os.environ.setdefault("WANDB_DATA_DIR", str(run_dir.resolve() / "wandb"))


def tell_wandb(checkpoint: Path, out: Path, tracking: TrackingConfig) -> None:
    """Do it at once, or leave it to the training that goes on: one process at a time writes to a run.

    Args:
        checkpoint: that the results were made with; its run is told, where it has told W&B of itself.
        out: file or folder of the results; elsewhere than in the run's folder they are nobody else's business.
    """
    from cosmos_train.train.telling.results import tell_after_training
    from cosmos_train.train.telling.wandb_run import ID_FILE, choose_mode

    run_dir = checkpoint.resolve().parents[1]
    if not (run_dir / ID_FILE).is_file() or run_dir not in out.resolve().parents:
        return
    if choose_mode(tracking).mode == "disabled":
        return
    try:
        with training_alone(run_dir):
            stage_in(run_dir)
            tell_after_training(run_dir, tracking)
    except ConfigError:
        print("the run is being trained: its next checkpoint tells W&B")
