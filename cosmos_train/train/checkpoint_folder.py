"""A run's checkpoints as folders: which there are, what they say, whether they are whole. No torch in here.

RUN/checkpoints/
    step-00000200/complete.json   written last: step, samples consumed, digest of the data, W&B id, version
    step-00000200/digests.json    SHA-256 and size of every other file
    step-00000300.partial/        being written, or left by a crash: never read, removed by the next start
    step-00000400.damaged/        found to differ from its digests, and set aside
"""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

MARKER = "complete.json"
DIGESTS = "digests.json"
FORMAT = 1
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
    wandb_id: str | None = None
    code_version: str = ""
    format: int = FORMAT


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The complete ones, from the first step to the last."""
    folders = (run_dir / "checkpoints").glob("step-*")
    complete = [folder for folder in folders if NAME.fullmatch(folder.name) and (folder / MARKER).is_file()]
    return sorted(complete, key=step_of)


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
    """complete.json of a checkpoint. Raises CheckpointError where a newer version of the code wrote it."""
    fields = json.loads((folder / MARKER).read_text())
    if fields.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {fields['format']} and this code reads up to {FORMAT}; "
            "use a newer cosmos-train"
        )
    return Progress(**fields)


def digests_of(folder: Path, *, part: int = 0, num_parts: int = 1) -> dict[str, str]:
    """`size:SHA-256` of a part of the files, by name: every num_parts-th, so that ranks share the reading."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (MARKER, DIGESTS))
    return {name: _digest(folder / name) for name in names[part::num_parts]}


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Note what damage_of compares with."""
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1, sort_keys=True))


def damage_of(folder: Path, *, part: int = 0, num_parts: int = 1) -> list[str]:
    """What differs from the digests in a part of the files, a phrase each. None where there are no digests."""
    if not (folder / DIGESTS).is_file():
        return []
    try:
        noted = json.loads((folder / DIGESTS).read_text())
    except ValueError:
        return [f"{DIGESTS} is not JSON"]
    found = []
    for name, digest in sorted(noted.items())[part::num_parts]:
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != int(digest.split(":")[0]):
            found.append(f"{name} has {path.stat().st_size} bytes instead of {digest.split(':')[0]}")
        elif _digest(path) != digest:
            found.append(f"{name} differs from its digest")
    return found


def set_aside(folder: Path) -> Path:
    """Keep a damaged checkpoint for whoever wants to look at it, under a name that is never read."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def remove_partial(run_dir: Path) -> list[str]:
    """Remove what a crash left half-written; its names."""
    left = sorted((run_dir / "checkpoints").glob("step-*.partial"))
    for folder in left:
        shutil.rmtree(folder)
    return [folder.name for folder in left]


def prunable(run_dir: Path, *, keep_last: int, keep_every_steps: int = 0) -> list[Path]:
    """Complete checkpoints that are neither among the newest keep_last nor of a multiple of keep_every_steps."""
    older = list_checkpoints(run_dir)[:-keep_last]
    return [folder for folder in older if not keep_every_steps or step_of(folder) % keep_every_steps]


def prune(run_dir: Path, *, keep_last: int, keep_every_steps: int = 0) -> list[Path]:
    """Remove them. The marker goes first: what is left of a removal that is interrupted is no checkpoint."""
    removed = prunable(run_dir, keep_last=keep_last, keep_every_steps=keep_every_steps)
    for folder in removed:
        (folder / MARKER).unlink()
        shutil.rmtree(folder)
    return removed


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"
