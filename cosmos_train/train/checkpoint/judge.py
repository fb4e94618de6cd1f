"""Whether a checkpoint's folder is whole, and holds what its name says. No torch in here.

    complete.json   says the step; since format 3 also the digest of digests.json, and one of its own other values
                    and since format 4 how many of its steps were skipped, so that the optimizer's own count is known
    digests.json    says the size and SHA-256 of every other file
    common.pt       has the optimizer's count, which must be that

So no file can change, nor change places with another checkpoint's, without `damage_of` seeing it. Format 2 had no
digests of these two files; of it the rest is compared.
"""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MARKER = "complete.json"
DIGESTS = "digests.json"
REASON = "damage.txt"
"""Says in a folder that was set aside what is wrong with it."""
COMMON, ADAM_STEP = "common.pt", "adam_step"
"""The file of plain values, as torch.save writes it, and its name of the optimizer's count of updates."""
FORMAT = 4
SEALED_SINCE = 3
"""Format from which complete.json proves digests.json and itself."""
NAME = re.compile(r"step-(\d{8,})")
DIGEST = re.compile(r"\d{1,18}:[0-9a-f]{64}")
OF_JSON: dict[Any, tuple[type, ...]] = {
    int: (int,),
    int | None: (int, type(None)),
    str: (str,),
    float | None: (int, float, type(None)),
    str | None: (str, type(None)),
}
"""Types of Progress -> those that stand for them in JSON."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not one that this run can start from. Exit code 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A checkpoint says this in complete.json: how far the run is, and what it must not be continued without."""

    step: int
    samples_consumed: int
    seed: int
    data_digest: str
    """Digest of what the sample plan is over; another one is refused."""
    sample_order: int = 1
    """Version of the order in which a plan visits its clips (sample_plan.order.SAMPLE_ORDER); 1: it is not said."""
    layout: str
    """Layout that wrote it, for the log; any layout reads it."""
    score: float | None = None
    """checkpoint.best_metric as it was last logged; None before the first logged step."""
    skipped_steps: int | None = None
    """Of `step`, so many did not update the weights; None where no optimizer is stored, and before format 4."""
    wandb_id: str | None = None
    code_version: str = ""
    format: int = FORMAT


def read_progress(folder: Path) -> Progress:
    """Read complete.json of a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer version of the code.
    """
    progress, fault = _read_marker(folder)
    if progress is None:
        raise CheckpointError(f"{folder}: {fault}; restore it, or remove the folder")
    return progress


def marker_text(progress: Progress, digests_digest: str) -> str:
    """The content of complete.json, beside a digests.json of this digest."""
    values = asdict(progress) | {"format": FORMAT, "digests": digests_digest}
    return json.dumps(values | {"check": _check_of(values)}, indent=1)


def damage_of(
    folder: Path,
    *,
    contents: bool = True,
    only: Collection[str] | None = None,
    part: int = 0,
    num_parts: int = 1,
) -> list[str]:
    """Say what is wrong with a checkpoint, a phrase each; a file that can not be read is one.

    Args:
        contents: compare contents too, not the sizes alone; then a checkpoint without digests is damaged, since every
            save writes them.
        only: names of files; the contents of others are not looked at.
        part, num_parts: look at one part of the files out of so many.

    Raises:
        CheckpointError: a newer version of the code wrote it.
    """
    progress, fault = _read_marker(folder)
    if progress is None:
        return [fault]
    found = list(_contradictions(folder, progress))
    if contents or progress.format >= SEALED_SINCE or (folder / DIGESTS).exists():
        found += _differences(folder, contents, only, slice(part, None, num_parts))
    if not found and only is None and part == 0:
        found += _of_optimizer(folder / COMMON, progress)
    return found


def digest_of(path: Path) -> str:
    """`size:SHA-256` of a file."""
    with path.open("rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read_marker(folder: Path) -> tuple[Progress | None, str]:
    """(what complete.json says, or None; then what is wrong with it)"""
    values, fault = _read_object(folder / MARKER)
    if values is None:
        return None, fault
    version = values.get("format", 1)
    if type(version) is not int or version < 1:
        return None, f"{MARKER} has format {version!r}, which is no version"
    if version >= SEALED_SINCE:
        check = values.pop("check", None)
        if check != _check_of(values):
            return None, f"{MARKER} is not as it was written: its values do not have its check"
        if version > FORMAT:  # of a newer version of the code, and no damage: nobody should go back for it
            raise CheckpointError(
                f"{folder} has checkpoint format {version} and this code reads up to {FORMAT}; use a newer cosmos-train"
            )
        try:
            same = digest_of(folder / DIGESTS) == values.pop("digests")
        except OSError as error:
            return None, f"{DIGESTS} {_why(error)}"
        if not same:
            return None, f"{DIGESTS} is not the one that {MARKER} was written for"
    known = {field.name: field.type for field in fields(Progress)}
    for name, value in values.items():
        if name not in known:
            return None, f"{MARKER} says {name}, which no checkpoint does"
        if isinstance(value, bool) or not isinstance(value, OF_JSON[known[name]]):
            return None, f"{MARKER} says {name}={value!r}, which it can not be"
    try:
        progress = Progress(**values)
    except TypeError:
        return None, f"{MARKER} lacks {', '.join(sorted(known.keys() - values.keys()))}"
    if progress.step < 0 or progress.samples_consumed < 0:
        return None, f"{MARKER} says step={progress.step}, samples_consumed={progress.samples_consumed}"
    return progress, ""


def _read_digests(folder: Path) -> tuple[dict[str, str] | None, str]:
    noted, fault = _read_object(folder / DIGESTS)
    if noted is None:
        return None, fault
    for name, digest in noted.items():
        if Path(name).name != name or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            return None, f"{DIGESTS} says {digest!r} of {name!r}, which is no digest of a file"
    return noted, ""


def _read_object(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{path.name} {_why(error)}"
    except (ValueError, RecursionError):
        return None, f"{path.name} is not JSON"
    if not isinstance(values, dict):
        return None, f"{path.name} is not a JSON object"
    return values, ""


def _contradictions(folder: Path, progress: Progress) -> Iterator[str]:
    """Say what its name and complete.json claim that can not all be."""
    named = NAME.fullmatch(folder.name)
    if named is not None and int(named[1]) != progress.step:
        yield f"it is named {folder.name} and holds step {progress.step}"
    if progress.step and progress.samples_consumed % progress.step:
        yield f"{progress.samples_consumed} samples in {progress.step} steps are no whole number a step"
    if not progress.step and progress.samples_consumed:
        yield f"{progress.samples_consumed} samples in no step"


def _differences(folder: Path, contents: bool, only: Collection[str] | None, part: slice) -> list[str]:
    """Say what is not as digests.json has it."""
    noted, fault = _read_digests(folder)
    if noted is None:
        return [fault]
    try:
        found = list(_unlisted(folder, noted))
    except OSError as error:
        found = [f"the folder can not be read: {error}"]
    wanted = [name for name in sorted(noted) if only is None or name in only]
    damaged = (_damage_of_file(folder / name, noted[name], contents=contents) for name in wanted[part])
    return found + [phrase for phrase in damaged if phrase is not None]


def _of_optimizer(path: Path, progress: Progress) -> Iterator[str]:
    """Say where the optimizer has not made as many updates as complete.json claims."""
    try:
        updates = _read_adam_step(path)
    except OSError as error:
        yield f"{path.name} {_why(error)}"
        return
    except Exception as error:  # zipfile and pickle raise almost anything for bytes that are not theirs
        yield f"{path.name} can not be read: {type(error).__name__}: {error}"
        return
    step, skipped = progress.step, progress.skipped_steps
    if updates is None and skipped is None:  # weights alone, or averages
        return
    if type(updates) is not int or not 0 <= updates <= step or skipped not in (None, step - updates):
        of_them = "" if skipped is None else f", {skipped} of them skipped"
        yield f"{MARKER} says {step} steps{of_them}, and the optimizer's own count is {updates!r}"


def _read_adam_step(path: Path) -> Any:
    """Read what torch.save wrote of it, without torch; None where there is none."""
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        with archive.open(name) as file:
            return _PlainUnpickler(file).load().get(ADAM_STEP)


class _PlainUnpickler(pickle.Unpickler):
    """Of numbers, text, lists and dictionaries: a class could be one that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unlisted(folder: Path, noted: Collection[str]) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        is_remnant = path.name.startswith(".nfs")  # of a file that another node still had open when it was removed
        if path.name not in (*noted, MARKER, DIGESTS, REASON) and not is_remnant:
            yield f"{path.name} is in no digest"


def _damage_of_file(path: Path, digest: str, *, contents: bool) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != int(digest.split(":")[0]):
            return f"{path.name} has {num_bytes} bytes instead of {digest.split(':')[0]}"
        if contents and digest_of(path) != digest:
            return f"{path.name} differs from its digest"
    except OSError as error:
        return f"{path.name} {_why(error)}"
    return None


def _why(error: OSError) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else f"can not be read: {error}"


def _check_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
