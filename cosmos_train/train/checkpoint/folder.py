"""A run's checkpoints as folders: which there are, what they say, whether they are whole. No torch in here.

RUN/checkpoints/
    step-00000200/complete.json   written last: step, samples consumed, digest of the data, W&B id, version
    step-00000200/digests.json    SHA-256 and size of every other file
    step-00000300.partial/        being written or removed, or left by a crash: never read, removed by the next start
    step-00000400.damaged/        found to be damaged, and set aside

What has a checkpoint's name and no complete.json was one once, and is damaged: saving and removing never leave it so.

RUN/ema/                          snapshots of power-law averages: folders of the same kind
"""

import hashlib
import json
import logging
import math
import os
import shutil
from pathlib import Path

from cosmos_data.whole_file import flush
from cosmos_train.train.checkpoint.judge import DIGESTS, MARKER, NAME, REASON, CheckpointError, digest_of, marker_text
from cosmos_train.train.checkpoint.judge import FORMAT as FORMAT
from cosmos_train.train.checkpoint.judge import Progress as Progress
from cosmos_train.train.checkpoint.judge import damage_of as damage_of
from cosmos_train.train.checkpoint.judge import read_progress as read_progress
from cosmos_train.train.config import CheckpointConfig

CHECKPOINTS = "checkpoints"
SNAPSHOTS = "ema"
"""Of power-law averages, written as checkpoints are."""
DAMAGED = ".damaged"
"""Ends the name of what was set aside."""
PARTIAL = ".partial"
"""Ends the name of what is being written, or removed."""
log = logging.getLogger(__name__)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete ones, from the first step to the last. Raises CheckpointError as list_named does."""
    return [folder for folder in list_named(run_dir) if _has_marker(folder)]


def list_named(run_dir: Path, parent: str = CHECKPOINTS) -> list[Path]:
    """Whatever has a checkpoint's name, complete or damaged, from the first step to the last.

    Args:
        parent: the folder in the run's that is listed.

    Raises:
        CheckpointError: the folder can not be looked into.
    """
    return sorted((path for path in _paths_in(run_dir / parent) if NAME.fullmatch(path.name)), key=step_of)


def list_damaged(run_dir: Path) -> list[Path]:
    """Those that were set aside, and are not there again. Raises CheckpointError as list_named does."""
    found = [path for path in _paths_in(run_dir / CHECKPOINTS) if path.suffix == DAMAGED]
    return sorted(path for path in found if NAME.fullmatch(path.stem) and not os.path.lexists(path.with_suffix("")))


def _paths_in(parent: Path) -> list[Path]:
    """Empty where there is no such folder; one that is there and can not be read may be full of checkpoints."""
    try:
        return list(parent.iterdir())
    except OSError as error:
        is_absent = isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(parent)
        if is_absent:
            return []
        raise CheckpointError(
            f"{parent} can not be looked into ({error.strerror}), and may hold checkpoints; make it readable, remove "
            "it where it is none of the run's, or use another run_dir"
        ) from error


def _has_marker(folder: Path) -> bool:
    """Whether it was completed; of what can not be looked into so it is taken, and told when it is judged."""
    try:
        return (folder / MARKER).is_file()
    except OSError:
        return True


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    return next(reversed(list_checkpoints(run_dir)), None)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    found = NAME.fullmatch(folder.name)
    assert found is not None, folder
    return int(found[1])


def find_checkpoint(path: Path) -> Path | None:
    """A checkpoint folder, given itself or its run's folder, or None where there is none.

    Of a run's the newest, also where it is damaged: who asks for it must hear that, and not get an older one.
    """
    return path if _has_marker(path) else next(reversed(list_named(path)), None)


def resolve(path: Path) -> Path:
    """The same. Raises CheckpointError where there is none, or the newest is not complete."""
    found = find_checkpoint(path)
    if found is None:
        raise CheckpointError(
            f"{path} is neither a complete checkpoint (it has no {MARKER}) nor a run folder with one in checkpoints/"
        )
    if not _has_marker(found):
        raise CheckpointError(
            f"{found}, the newest checkpoint of {path}, is damaged ({MARKER} is missing); restore it, or name the one "
            "that is to be read"
        )
    return found


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Note what damage_of compares with."""
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1, sort_keys=True), encoding="utf-8")


def seal(partial: Path, final: Path, progress: Progress, digests: dict[str, str]) -> None:
    """Complete a folder that holds all it should: digests, complete.json, the name. A crash of the machine takes no
    part of it back.

    Args:
        digests: of those files that are flushed to the disk already.

    Raises:
        OSError: the disk is full, or gone.
    """
    others = [path for path in partial.iterdir() if path.name not in digests]
    write_digests(partial, digests | {path.name: digest_of(path) for path in others})
    (partial / MARKER).write_text(marker_text(progress, digest_of(partial / DIGESTS)), encoding="utf-8")
    for path in (*others, partial / DIGESTS, partial / MARKER, partial):
        flush(path)
    replaced = final.with_name(f"{final.name}.replaced{PARTIAL}")
    remove(replaced)
    if os.path.lexists(final):  # the run went on from a step before it
        final.rename(replaced)  # at once: half removed it would look like a damaged one
    partial.rename(final)
    flush(final.parent)
    remove(replaced)


def set_aside(folder: Path, reason: str = "") -> Path:
    """Keep a damaged checkpoint for whoever wants to look at it, under a name that is never read, with the reason.

    What can not be renamed is told, and stays: it is found damaged again.
    """
    aside = folder.with_name(f"{folder.name}{DAMAGED}")
    remove(aside)
    try:
        folder.rename(aside)
    except OSError as error:
        log.warning("%s can not be set aside: %s", folder, error)
        return folder
    try:
        (aside / REASON).write_text(f"{reason}\n", encoding="utf-8")
    except OSError as error:  # the log has it too
        log.warning("%s can not be noted in %s: %s", REASON, aside, error)
    return aside


def remove(path: Path) -> None:
    """Remove a folder, or a file or link of its name; nothing that a link leads to. What can not be removed is told."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)
    except OSError as error:
        log.warning("%s can not be removed: %s", path, error)


def staging_folder(staging_dir: Path, run_dir: Path) -> Path:
    """Where this run's files are made on the node's own disk: runs that share one do not meet."""
    return staging_dir / f"run-{hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]}"


def remove_partial(run_dir: Path) -> list[str]:
    """Remove what a crash left half-written and return its names."""
    left: list[Path] = []
    for name in (CHECKPOINTS, SNAPSHOTS):
        left += sorted((run_dir / name).glob(f"step-*{PARTIAL}"))
    for folder in left:
        remove(folder)
    return [folder.name for folder in left]


def prunable(run_dir: Path, config: CheckpointConfig) -> list[Path]:
    """Complete checkpoints that none of the rules keeps: the newest, those of certain steps, the best."""
    found = list_checkpoints(run_dir)
    kept = {*found[-config.keep_last :], *_best(found, config)}
    if config.keep_every_steps:
        kept |= {folder for folder in found if step_of(folder) % config.keep_every_steps == 0}
    return [folder for folder in found if folder not in kept]


def _best(found: list[Path], config: CheckpointConfig) -> list[Path]:
    """The keep_best best by their scores, of equal ones the newest."""
    if not config.keep_best:
        return []
    sign = 1 if config.best_is == "highest" else -1
    scored = []
    for folder in found:
        score = _score_of(folder)
        if score is not None and math.isfinite(score):
            scored.append((sign * score, folder))
    ranked = sorted(scored, key=lambda each: (each[0], step_of(each[1])))
    return [folder for _, folder in ranked[-config.keep_best :]]


def _score_of(folder: Path) -> float | None:
    try:
        return read_progress(folder).score
    except CheckpointError:  # told where it is judged
        return None


def prune(run_dir: Path, config: CheckpointConfig) -> list[Path]:
    """Remove them. What is left of a removal that is interrupted is removed by the next start."""
    removed = prunable(run_dir, config)
    for folder in removed:
        partial = folder.with_suffix(PARTIAL)
        remove(partial)
        remove(folder.rename(partial))
    return removed
