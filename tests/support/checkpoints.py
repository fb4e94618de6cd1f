"""Folders that look like checkpoints from outside, made without torch."""

import json
import pickle
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cosmos_train.train.checkpoint import folder as folders


def unseal(folder: Path) -> None:
    """Make it one of format 2, without digests."""
    progress = folders.read_progress(folder)
    (folder / folders.DIGESTS).unlink()
    (folder / folders.MARKER).write_text(json.dumps(asdict(replace(progress, format=2))))


def seal_again(folder: Path, progress: folders.Progress) -> None:
    """Take what is in the folder for what was written."""
    own = (folders.MARKER, folders.DIGESTS)
    files = [path for path in folder.iterdir() if path.name not in own]
    folders.write_digests(folder, {path.name: folders.digest_of(path) for path in files})
    digest = folders.digest_of(folder / folders.DIGESTS)
    (folder / folders.MARKER).write_text(folders.marker_text(progress, digest))


def write_common(path: Path, values: dict[str, Any]) -> None:
    """common.pt, as torch.save writes plain values."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("common/data.pkl", pickle.dumps(values, protocol=2))


def flip(path: Path) -> None:
    """Turn over a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def write_checkpoint(
    run_dir: Path,
    step: int,
    *,
    score: float | None = None,
    skipped_steps: int = 0,
    parent: str = folders.CHECKPOINTS,
    format: int = folders.FORMAT,
) -> Path:
    """Three files, their digests and the marker."""
    folder = run_dir / parent / f"step-{step:08d}"
    folder.mkdir(parents=True)
    for name, content in (("__0_0.distcp", b"a" * 100), ("run.yaml", b"recipe: world_dit\n")):
        (folder / name).write_bytes(content)
    write_common(folder / "common.pt", {"adam_step": step - skipped_steps})
    folders.write_digests(folder, {path.name: folders.digest_of(path) for path in folder.iterdir()})
    progress = folders.Progress(
        step=step, samples_consumed=4 * step, seed=0, data_digest="1" * 64, layout="tp1", score=score, format=format
    )
    if format >= 4:
        progress = replace(progress, skipped_steps=skipped_steps)
    if format == folders.FORMAT:
        text = folders.marker_text(progress, folders.digest_of(folder / folders.DIGESTS))
    else:
        text = json.dumps(asdict(progress))
    (folder / folders.MARKER).write_text(text)
    return folder
