"""A run's checkpoints as folders: which there are, what they say, whether they are whole. No torch in here.

RUN/checkpoints/
    step-00000200/complete.json   written last: step, samples consumed, digest of the data, W&B id, version
    step-00000200/digests.json    SHA-256 and size of every other file
    step-00000300.partial/        being written or removed, or left by a crash: never read, removed by the next start
    step-00000400.damaged/        found to differ from its digests, and set aside

RUN/ema/                          snapshots of power-law averages: folders of the same kind
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
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
    return _complete(run_dir / CHECKPOINTS)


def list_snapshots(run_dir: Path) -> list[Path]:
    """The complete ones in RUN/ema, from the first step to the last."""
    return _complete(run_dir / SNAPSHOTS)


def list_damaged(run_dir: Path) -> list[Path]:
    """Those that were set aside, and are not there again as whole ones."""
    found = (run_dir / CHECKPOINTS).glob(f"step-*{DAMAGED}")
    return sorted(folder for folder in found if not (folder.with_suffix("") / MARKER).is_file())


def _complete(parent: Path) -> list[Path]:
    folders = [folder for folder in parent.glob("step-*") if NAME.fullmatch(folder.name)]
    return sorted((folder for folder in folders if (folder / MARKER).is_file()), key=step_of)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    return next(reversed(list_checkpoints(run_dir)), None)


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    found = NAME.fullmatch(folder.name)
    assert found is not None, folder
    return int(found[1])


def find_checkpoint(path: Path) -> Path | None:
    """A checkpoint folder, given itself or its run's folder, or None where there is none."""
    return path if (path / MARKER).is_file() else newest_checkpoint(path)


def resolve(path: Path) -> Path:
    """The same. Raises CheckpointError where there is none."""
    found = find_checkpoint(path)
    if found is None:
        raise CheckpointError(
            f"{path} is neither a complete checkpoint (it has no {MARKER}) nor a run folder with one in checkpoints/"
        )
    return found


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
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1, sort_keys=True))


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
    (partial / MARKER).write_text(json.dumps(asdict(progress), indent=1))
    for path in (*others, partial / DIGESTS, partial / MARKER, partial):
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)  # where the run went on from a step before it
    partial.rename(final)
    _flush(final.parent)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def damage_of(
    folder: Path,
    *,
    contents: bool = True,
    only: Collection[str] | None = None,
    part: int = 0,
    num_parts: int = 1,
) -> list[str]:
    """What differs from the digests, a phrase each; a file that can not be read is one.

    Args:
        contents: compare contents too, not the sizes alone; then a checkpoint without digests is damaged, since every
            save writes them.
        only: names of files; others are not looked at.
        part, num_parts: look at one part of so many.
    """
    if not contents and not (folder / DIGESTS).exists():
        return []
    for name in (MARKER, DIGESTS):
        try:
            noted: dict[str, str] = json.loads((folder / name).read_text())
        except FileNotFoundError:
            return [f"{name} is missing"]
        except OSError as error:
            return [f"{name} can not be read: {error}"]
        except ValueError:
            return [f"{name} is not JSON"]
    wanted = [name for name in sorted(noted) if only is None or name in only]
    found = (_damage_of_file(folder / name, noted[name], contents=contents) for name in wanted[part::num_parts])
    return [phrase for phrase in found if phrase is not None]


def _damage_of_file(path: Path, digest: str, *, contents: bool) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != int(digest.split(":")[0]):
            return f"{path.name} has {num_bytes} bytes instead of {digest.split(':')[0]}"
        if contents and digest_of(path) != digest:
            return f"{path.name} differs from its digest"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:  # of a dying disk, say
        return f"{path.name} can not be read: {error}"
    return None


def set_aside(folder: Path) -> Path:
    """Keep a damaged checkpoint for whoever wants to look at it, under a name that is never read."""
    aside = folder.with_name(f"{folder.name}{DAMAGED}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def staging_folder(staging_dir: Path, run_dir: Path) -> Path:
    """Where this run's files are made on the node's own disk: runs that share one do not meet."""
    return staging_dir / f"run-{hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]}"


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
