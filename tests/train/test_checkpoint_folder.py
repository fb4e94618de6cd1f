"""Checkpoints as folders: which there are, whether they are whole, which may go. No torch, no training."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint

from cosmos_train.train import checkpoint_folder as folders
from cosmos_train.train.config import CheckpointConfig


def names(found: list[Path]) -> list[int]:
    return [folders.step_of(folder) for folder in found]


def test_complete_ones_in_order_and_nothing_else(tmp_path: Path):
    for step in (200, 5, 10):
        write_checkpoint(tmp_path, step)
    write_checkpoint(tmp_path, 300).rename(tmp_path / "checkpoints" / "step-00000300.partial")
    folders.set_aside(write_checkpoint(tmp_path, 400))
    (write_checkpoint(tmp_path, 500) / folders.MARKER).unlink()
    assert names(folders.list_checkpoints(tmp_path)) == [5, 10, 200]
    assert folders.newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000200"
    (tmp_path / "ema" / "step-00000100.partial").mkdir(parents=True)
    assert folders.remove_partial(tmp_path) == ["step-00000300.partial", "step-00000100.partial"]
    assert (tmp_path / "checkpoints" / "step-00000400.damaged").is_dir()


def loop_of_links(path: Path) -> None:
    """Reading it is an error of the system, as it is on a dying disk."""
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: None, []),
        (lambda folder: (folder / "common.pt").unlink(), ["common.pt is missing"]),
        (lambda folder: (folder / "common.pt").write_bytes(b"b"), ["common.pt has 1 bytes instead of 10"]),
        (lambda folder: (folder / "common.pt").write_bytes(b"c" * 10), ["common.pt differs from its digest"]),
        (lambda folder: (folder / folders.DIGESTS).write_text("{"), ["digests.json is not JSON"]),
        (lambda folder: (folder / folders.MARKER).write_text(""), ["complete.json is not JSON"]),  # a crashed node
        (lambda folder: (folder / folders.DIGESTS).unlink(), ["digests.json is missing"]),
        (lambda folder: loop_of_links(folder / "common.pt"), ["common.pt can not be read: [Errno 40]"]),
        (lambda folder: loop_of_links(folder / folders.DIGESTS), ["digests.json can not be read: [Errno 40]"]),
    ],
)
def test_damage(tmp_path: Path, harm, said: list[str]):
    folder = write_checkpoint(tmp_path, 1)
    harm(folder)
    found = folders.damage_of(folder)
    assert len(found) == len(said) and all(phrase.startswith(start) for phrase, start in zip(found, said, strict=True))


def test_sizes_are_compared_where_contents_are_not(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    (folder / "common.pt").write_bytes(b"c" * 10)
    assert folders.damage_of(folder, contents=False) == []
    (folder / "common.pt").write_bytes(b"c")
    assert folders.damage_of(folder, contents=False) == ["common.pt has 1 bytes instead of 10"]
    assert folders.damage_of(folder, only={"run.yaml", "__0_0.distcp"}) == [], "others are not looked at"
    (folder / folders.DIGESTS).unlink()
    assert folders.damage_of(folder, contents=False) == []


def test_a_sealed_folder_is_on_the_disk_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    partial, final = tmp_path / "step-00000001.partial", tmp_path / "step-00000001"
    partial.mkdir()
    for name in ("weights_00000.distcp", "common.pt", "run.yaml"):
        (partial / name).write_text(name)
    flushed: list[tuple[str, bool]] = []
    original = os.fsync
    monkeypatch.setattr(folders, "digest_of", lambda path: f"digest of {path.name}")

    def noting(fd: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{fd}").readlink().name, final.exists()))
        original(fd)

    monkeypatch.setattr(os, "fsync", noting)
    progress = folders.Progress(step=1, samples_consumed=4, seed=0, data_digest="", layout="")
    folders.seal(partial, final, progress, {"weights_00000.distcp": "by who wrote it"})
    assert set(flushed[:4]) == {(name, False) for name in ("common.pt", "run.yaml", "digests.json", "complete.json")}
    assert flushed[4:] == [(partial.name, False), (tmp_path.name, True)]
    assert json.loads((final / folders.DIGESTS).read_text()) == {
        "weights_00000.distcp": "by who wrote it",
        "common.pt": "digest of common.pt",
        "run.yaml": "digest of run.yaml",
    }
    assert folders.read_progress(final) == progress


def test_ranks_share_the_reading(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    (folder / "run.yaml").unlink()
    found = [folders.damage_of(folder, part=part, num_parts=2) for part in range(2)]
    assert sorted(found, key=len) == [[], ["run.yaml is missing"]]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 1}, [50]),
        ({"keep_last": 2}, [40, 50]),
        ({"keep_last": 9}, [10, 20, 30, 40, 50]),
        ({"keep_last": 1, "keep_every_steps": 20}, [20, 40, 50]),
        ({"keep_last": 2, "keep_every_steps": 30}, [30, 40, 50]),
        ({"keep_last": 1, "keep_best": 1}, [30, 50]),
        ({"keep_last": 1, "keep_best": 2}, [30, 40, 50]),  # of equal ones the newest: not 20
        ({"keep_last": 1, "keep_best": 1, "best_is": "highest"}, [40, 50]),
        ({"keep_last": 1, "keep_best": 9}, [20, 30, 40, 50]),  # neither without a score nor one that is not finite
    ],
    ids=str,
)
def test_prune(tmp_path: Path, rules: dict[str, Any], kept: list[int]):
    for step, score in ((10, None), (20, 0.9), (30, 0.1), (40, 0.9), (50, math.nan)):
        write_checkpoint(tmp_path, step, score=score)
    keep = CheckpointConfig(**rules)
    planned = folders.prunable(tmp_path, keep)
    assert folders.prune(tmp_path, keep) == planned
    assert names(folders.list_checkpoints(tmp_path)) == kept
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(kept)


def test_needs_no_torch():
    program = "import sys; from cosmos_train.train import checkpoint_folder; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "False\n", done.stderr
