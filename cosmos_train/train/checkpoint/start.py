"""Where a run starts. In this order:

1. its own newest complete checkpoint that is whole
2. checkpoint.resume_from   another run's checkpoint: weights, optimizer, step
3. checkpoint.init_from     another run's weights, or another project's (Task.warm_start), step 0
4. scratch
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmos_train.parallel.mesh import Mesh, from_main
from cosmos_train.train.checkpoint.folder import (
    CheckpointError,
    find_checkpoint,
    list_damaged,
    list_named,
    remove_partial,
    resolve,
    set_aside,
    staging_folder,
)
from cosmos_train.train.checkpoint.verify import damage_on_all, first_few, require_whole
from cosmos_train.train.config import CheckpointConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The run goes on from this."""

    folder: Path | None
    """None from scratch."""
    weights_only: bool
    reason: str
    damaged: tuple[tuple[Path, str], ...] = ()
    """The run's own newer ones that can not be used, and why."""


def choose_start(run_dir: Path, config: CheckpointConfig, mesh: Mesh) -> StartingPoint:
    """Choose by the numbered list above, as rank 0 sees it, the same on every rank.

    Nothing in the run's folder is changed.

    Raises:
        CheckpointError: a named checkpoint is not a complete one, or damaged; or all of the run's own are.
    """
    own, set_aside_before = from_main(mesh, lambda: (list_named(run_dir), list_damaged(run_dir)))
    damaged = []
    for folder in reversed(own):
        damage = damage_on_all(folder, mesh, contents=config.verify)
        if not damage:
            reason = "this run's newest checkpoint" + (" that is whole: a newer one is damaged" if damaged else "")
            return StartingPoint(folder, weights_only=False, reason=reason, damaged=tuple(damaged))
        damaged.append((folder, damage))
        if mesh.is_main:
            log.warning("%s is damaged (%s); going back to the one before it", folder, damage)
    if own or set_aside_before:  # to start from scratch here would be a loss that nobody sees
        raise CheckpointError(_no_whole_one(run_dir, damaged, set_aside_before))
    if config.resume_from is not None:
        named = Path(config.resume_from)
        folder = from_main(mesh, lambda: resolve(named))
        require_whole(folder, mesh, contents=config.verify)
        return StartingPoint(folder, weights_only=False, reason="checkpoint.resume_from")
    if config.init_from is not None:
        other = Path(config.init_from)
        of_ours = from_main(mesh, lambda: find_checkpoint(other))
        if of_ours is not None:
            require_whole(of_ours, mesh, contents=config.verify, kinds=("model",))
        return StartingPoint(of_ours or other, weights_only=True, reason="checkpoint.init_from (weights only)")
    return StartingPoint(None, weights_only=False, reason="scratch: the run has no checkpoint and names none")


def tidy(run_dir: Path, config: CheckpointConfig, begin: StartingPoint, mesh: Mesh) -> None:
    """Set aside what was found damaged, and remove what a crash left half-written, of a start that nothing refuses."""
    if mesh.is_main:
        for folder, damage in begin.damaged:
            log.warning("%s is kept as %s", folder, set_aside(folder, damage).name)
        remove_partial(run_dir)
    if config.staging_dir is not None:  # each node's own
        shutil.rmtree(staging_folder(Path(config.staging_dir), run_dir), ignore_errors=True)


def _no_whole_one(run_dir: Path, damaged: Sequence[tuple[Path, str]], set_aside_before: Sequence[Path]) -> str:
    """Say what was found in the place of a checkpoint, and what to do."""
    found = [f"{folder.name}: {damage}" for folder, damage in damaged]
    found += [f"{folder.name}: set aside by an earlier start" for folder in set_aside_before]
    return (
        f"all {len(found)} checkpoints of {run_dir} are damaged ({first_few(found)}), and a start from scratch would "
        "lose what they hold; restore one from a copy, rename a step-N.damaged to step-N where it was set aside "
        "wrongly, or start afresh with another run_dir"
    )
