"""Folders that look like checkpoints from outside, made without torch."""

import json
from pathlib import Path

from cosmos_train.train import checkpoint_folder as folders


def write_checkpoint(
    run_dir: Path, step: int, *, score: float | None = None, parent: str = folders.CHECKPOINTS
) -> Path:
    """Three files, their digests and the marker."""
    folder = run_dir / parent / f"step-{step:08d}"
    folder.mkdir(parents=True)
    for name, content in (("__0_0.distcp", b"a" * 100), ("common.pt", b"b" * 10), ("run.yaml", b"recipe: world_dit\n")):
        (folder / name).write_bytes(content)
    folders.write_digests(folder, {path.name: folders.digest_of(path) for path in folder.iterdir()})
    progress: dict[str, object] = {
        "step": step,
        "samples_consumed": 4 * step,
        "seed": 0,
        "data_digest": "1" * 64,
        "layout": "tp1",
    }
    progress["score"] = score
    (folder / folders.MARKER).write_text(json.dumps(progress))
    return folder
