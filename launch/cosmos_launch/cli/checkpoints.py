"""`cosmos-train checkpoint ls | verify | prune | diff`: a run's checkpoints, looked at from outside."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from cosmos_train.config.errors import ConfigError
from cosmos_train.train.checkpoint import folder as folders
from cosmos_train.train.config import BestIs, CheckpointConfig

DAMAGED = 1
"""Exit code of verify where a checkpoint is not whole, and of diff where two differ, as diff(1) has it."""

PORTION = 2**28
"""Elements of each checkpoint that diff holds at once."""


def checkpoint(
    action: Literal["ls", "verify", "prune", "diff"],
    paths: Sequence[Path],
    *,
    keep_last: int | None,
    keep_every: int,
    keep_best: int,
    best_is: BestIs,
) -> int:
    """Do one of the four things and return the exit code. What is to be kept matters to `prune` alone."""
    match action:
        case "ls":
            return ls(paths)
        case "verify":
            return verify(paths)
        case "prune":
            return prune(paths, keep_last=keep_last, keep_every=keep_every, keep_best=keep_best, best_is=best_is)
        case "diff":
            return diff(paths)


def ls(paths: Sequence[Path]) -> int:
    """A line for each checkpoint of the runs: step, age, size, layout, code version; of a damaged one, why it is."""
    for run_dir in paths:
        found = _of_run(run_dir)
        damaged = list_damage(run_dir)
        for folder in found:
            if folder.name not in damaged:
                print(f"{folder}  {_about(folder)}")
        for name, reason in damaged.items():
            print(f"{run_dir / folders.CHECKPOINTS / name}  damaged: {reason}")
    return 0


def _about(folder: Path) -> str:
    try:
        progress = folders.read_progress(folder)
        age_hours = (time.time() - (folder / folders.MARKER).stat().st_mtime) / 3600
        size_gib = sum(file.stat().st_size for file in folder.iterdir()) / 2**30
    except (OSError, folders.CheckpointError) as error:  # a training that goes on may be removing it
        return f"can not be read: {error}"
    about = f"step {progress.step:>8}  {age_hours:6.1f} h old  {size_gib:8.3f} GiB  {progress.layout}"
    about += "" if progress.score is None else f"  score {progress.score:.5g}"
    return f"{about}  cosmos-train {progress.code_version}"


def list_damage(run_dir: Path) -> dict[str, str]:
    """Name in RUN/checkpoints -> what is wrong with it, as far as its files' sizes show; also of what was set aside."""
    found = {folder: _damage_of(folder, contents=False) for folder in folders.list_named(run_dir)}
    found |= {folder: _why_set_aside(folder) for folder in folders.list_damaged(run_dir)}
    # A training that goes on may have removed one meanwhile.
    return {folder.name: damage for folder, damage in found.items() if damage and os.path.lexists(folder)}


def _damage_of(folder: Path, *, contents: bool) -> str:
    """Empty where it is whole. One of a newer version of the code can not be judged, and that is said."""
    try:
        return "; ".join(folders.damage_of(folder, contents=contents))
    except folders.CheckpointError as error:
        return str(error)


def _why_set_aside(folder: Path) -> str:
    try:
        reason = (folder / folders.REASON).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        reason = ""
    return f"set aside ({reason or 'the reason is not noted'})"


def verify(paths: Sequence[Path]) -> int:
    """Compare every file with its digest: of a checkpoint, or of all of a run and its snapshots of averages."""
    wanted = []
    for path in paths:
        wanted += [path] if _is_checkpoint(path) else [*_of_run(path), *folders.list_named(path, folders.SNAPSHOTS)]
    damaged = 0
    for folder in track(wanted, "verifying", transient=True, console=Console(stderr=True)):
        damage = _damage_of(folder, contents=True)
        if damage:
            damaged += 1
        print(f"{folder}: {damage or 'whole'}")
    return DAMAGED if damaged else 0


def prune(paths: Sequence[Path], *, keep_last: int | None, keep_every: int, keep_best: int, best_is: BestIs) -> int:
    """Remove what need not be kept, and say so."""
    if keep_last is None or keep_last < 1 or keep_every < 0 or keep_best < 0:
        raise ConfigError("checkpoint prune needs --keep-last N of 1 or more; other numbers are 0 or more")
    keep = CheckpointConfig(keep_last=keep_last, keep_every_steps=keep_every, keep_best=keep_best, best_is=best_is)
    for run_dir in paths:
        _of_run(run_dir)
        for folder in folders.prune(run_dir, keep):
            print(f"removed {folder}")
    return 0


def diff(paths: Sequence[Path]) -> int:
    """Print how configuration and tensors of two checkpoints differ."""
    if len(paths) != 2:
        raise ConfigError(f"checkpoint diff compares two checkpoints, and {len(paths)} were named")
    one, other = (folders.resolve(path) for path in paths)
    lines = [*_progress_differences(one, other), *_config_differences(one, other), *_tensor_differences(one, other)]
    print("\n".join(lines) or f"{one} and {other} are alike")
    return DAMAGED if lines else 0


def _is_checkpoint(path: Path) -> bool:
    return (path / folders.MARKER).is_file() or (path.is_dir() and folders.NAME.fullmatch(path.name) is not None)


def _of_run(run_dir: Path) -> list[Path]:
    """What has a checkpoint's name, complete or damaged."""
    found = folders.list_named(run_dir)
    if not found and not folders.list_damaged(run_dir):
        raise ConfigError(f"{run_dir} is no run's folder with complete checkpoints in checkpoints/")
    return found


def _progress_differences(one: Path, other: Path) -> list[str]:
    first, second = folders.read_progress(one), folders.read_progress(other)
    names = ("step", "samples_consumed", "seed", "data_digest", "layout", "code_version")
    pairs = [(name, getattr(first, name), getattr(second, name)) for name in names]
    return [f"{name}: {mine} | {theirs}" for name, mine, theirs in pairs if mine != theirs]


def _config_differences(one: Path, other: Path) -> list[str]:
    first, second = (_flat(_run_of(folder)) for folder in (one, other))
    return [
        f"{key}: {first.get(key, 'absent')} | {second.get(key, 'absent')}"
        for key in sorted(first.keys() | second.keys())
        if first.get(key, "absent") != second.get(key, "absent")
    ]


def _run_of(folder: Path) -> dict:
    from cosmos_train.config.load import load_run, to_dict

    return to_dict(load_run(str(folder / "run.yaml")))


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _tensor_differences(one: Path, other: Path) -> list[str]:
    """Tensors in one of them alone, of other shapes, or by how much their values differ; a portion at a time."""
    import torch.linalg

    from cosmos_train.parallel import init
    from cosmos_train.parallel.config import ParallelConfig
    from cosmos_train.train.checkpoint.load import read_tensors, tensor_names

    init.start(ParallelConfig(), seed=0)
    first, second = tensor_names(one), tensor_names(other)
    found = [f"{name}: only in {one}" for name in sorted(first.keys() - second.keys())]
    found += [f"{name}: only in {other}" for name in sorted(second.keys() - first.keys())]
    both = sorted(first.keys() & second.keys())
    found += [f"{name}: {_kind(first[name])} | {_kind(second[name])}" for name in both if first[name] != second[name]]
    alike = {name: math.prod(first[name][0]) for name in both if first[name] == second[name]}
    for names in track(_portions(alike), "comparing", transient=True, console=Console(stderr=True)):
        mine, theirs = (read_tensors(folder, names) for folder in (one, other))
        for name in names:
            distance = float(torch.linalg.vector_norm(mine[name].float() - theirs[name].float()))
            if distance:
                norm = float(torch.linalg.vector_norm(mine[name].float()))
                found.append(f"{name}: differs by {distance / norm if norm else math.inf:.3g} of its norm")
    init.stop()
    return found


def _portions(sizes: dict[str, int]) -> list[list[str]]:
    """Names in portions of at most PORTION elements, or of one name."""
    portions: list[list[str]] = [[]]
    elements = 0
    for name, size in sizes.items():
        if portions[-1] and elements + size > PORTION:
            portions.append([])
            elements = 0
        portions[-1].append(name)
        elements += size
    return portions


def _kind(tensor: tuple) -> str:
    shape, dtype = tensor
    return f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
