"""A run's checkpoints as folders: which there are, what they say, whether they are whole. No torch in here.

RUN/checkpoints/
    step-00000200/complete.json   written last: step, samples consumed, digest of the data, W&B id, version
    step-00000200/digests.json    SHA-256 and size of every other file
    step-00000300.partial/        being written or removed, or left by a crash: never read, removed by the next start
    step-00000400.damaged/        found to differ from its digests, and set aside
"""

import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from cosmos_train.train.config import CheckpointConfig

CHECKPOINTS = "checkpoints"
SNAPSHOTS = "ema"
"""Of power-law averages, written as checkpoints are."""
DAMAGED = ".damaged"
"""Ends the name of what was set aside."""
PARTIAL = ".partial"
"""Ends the name of what is being written, or removed."""
MARKER = "complete.json"
DIGESTS = "digests.json"
FORMAT = 2
NAME = re.compile(r"step-(\d{8,})")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not one that this run can start from. Exit code 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What complete.json says: how far the run is, and what it must not be continued without."""

    step: int
    samples_consumed: int
    seed: int
    data_digest: str
    """Digest of what the sample plan is over; another one is refused."""
    layout: str
    """Layout that wrote it, for the log; any layout reads it."""
    score: float | None = None
    """checkpoint.best_metric as it was last logged; None before the first logged step."""
    wandb_id: str | None = None
    code_version: str = ""
    format: int = FORMAT


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete ones, from the first step to the last."""
    folders = (run_dir / CHECKPOINTS).glob("step-*")
    complete = [folder for folder in folders if NAME.fullmatch(folder.name) and (folder / MARKER).is_file()]
    return sorted(complete, key=step_of)


def list_damaged(run_dir: Path) -> list[Path]:
    """Those that were set aside, and are not there again as whole ones."""
    found = (run_dir / CHECKPOINTS).glob(f"step-*{DAMAGED}")
    return sorted(folder for folder in found if not (folder.with_suffix("") / MARKER).is_file())


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    return next(reversed(list_checkpoints(run_dir)), None)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    found = NAME.fullmatch(folder.name)
    assert found is not None, folder
    return int(found[1])


def resolve(path: Path) -> Path:
    """A checkpoint folder, given itself or its run's folder. Raises CheckpointError where there is none."""
    if (path / MARKER).is_file():
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise CheckpointError(
            f"{path} is neither a complete checkpoint (it has no {MARKER}) nor a run folder with one in checkpoints/"
        )
    return newest


def read_progress(folder: Path) -> Progress:
    """complete.json of a checkpoint. Raises CheckpointError where it is damaged, or of a newer version of the code."""
    try:
        fields = json.loads((folder / MARKER).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / MARKER} is not JSON: {error}; restore it, or remove the folder") from error
    if fields.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {fields['format']} and this code reads up to {FORMAT}; "
            "use a newer cosmos-train"
        )
    return Progress(**fields)


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Note what damage_of compares with."""
    write_durably(folder / DIGESTS, json.dumps(digests, indent=1, sort_keys=True))


def write_durably(path: Path, text: str) -> None:
    """Write a file, and wait until a crash of the machine can not empty it."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def damage_of(folder: Path, *, part: int = 0, num_parts: int = 1) -> list[str]:
    """What differs from the digests in a part of the files, a phrase each. None where there are no digests."""
    if not (folder / DIGESTS).is_file():
        return []
    for name in (MARKER, DIGESTS):
        try:
            noted = json.loads((folder / name).read_text())
        except ValueError:
            return [f"{name} is not JSON"]
    found = []
    for name, digest in sorted(noted.items())[part::num_parts]:
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != int(digest.split(":")[0]):
            found.append(f"{name} has {path.stat().st_size} bytes instead of {digest.split(':')[0]}")
        elif digest_of(path) != digest:
            found.append(f"{name} differs from its digest")
    return found


def set_aside(folder: Path) -> Path:
    """Keep a damaged checkpoint for whoever wants to look at it, under a name that is never read."""
    aside = folder.with_name(f"{folder.name}{DAMAGED}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def remove_partial(run_dir: Path) -> list[str]:
    """Remove what a crash left half-written; its names."""
    left = [p for name in (CHECKPOINTS, SNAPSHOTS) for p in sorted((run_dir / name).glob(f"step-*{PARTIAL}"))]
    for folder in left:
        shutil.rmtree(folder)
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
    scored = [(sign * score, folder) for folder in found if (score := read_progress(folder).score) is not None]
    ranked = sorted(scored, key=lambda each: (each[0], step_of(each[1])))
    return [folder for value, folder in ranked if math.isfinite(value)][-config.keep_best :]


def prune(run_dir: Path, config: CheckpointConfig) -> list[Path]:
    """Remove them. What is left of a removal that is interrupted is removed by the next start."""
    removed = prunable(run_dir, config)
    for folder in removed:
        shutil.rmtree(folder.rename(folder.with_suffix(PARTIAL)))
    return removed


def digest_of(path: Path) -> str:
    """`size:SHA-256` of a file."""
    with path.open("rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"
