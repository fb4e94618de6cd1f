"""Checkpoints as folders: which there are, whether they are whole, which may go. No torch, no training."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint

from cosmos_train.train import checkpoint_folder as folders


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
    assert folders.remove_partial(tmp_path) == ["step-00000300.partial"]
    assert (tmp_path / "checkpoints" / "step-00000400.damaged").is_dir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: None, []),
        (lambda folder: (folder / "common.pt").unlink(), ["common.pt is missing"]),
        (lambda folder: (folder / "common.pt").write_bytes(b"b"), ["common.pt has 1 bytes instead of 10"]),
        (lambda folder: (folder / "common.pt").write_bytes(b"c" * 10), ["common.pt differs from its digest"]),
        (lambda folder: (folder / folders.DIGESTS).write_text("{"), ["digests.json is not JSON"]),
        (lambda folder: (folder / folders.DIGESTS).unlink(), []),  # of a version that wrote none
    ],
)
def test_damage(tmp_path: Path, harm, said: list[str]):
    folder = write_checkpoint(tmp_path, 1)
    harm(folder)
    assert folders.damage_of(folder) == said


def test_ranks_share_the_reading(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    parts = [folders.digests_of(folder, part=part, num_parts=2) for part in range(2)]
    assert parts[0] | parts[1] == folders.digests_of(folder) and not parts[0].keys() & parts[1].keys()
    (folder / "run.yaml").unlink()
    found = [folders.damage_of(folder, part=part, num_parts=2) for part in range(2)]
    assert sorted(found, key=len) == [[], ["run.yaml is missing"]]


@pytest.mark.parametrize(
    ("keep_last", "keep_every_steps", "kept"),
    [(1, 0, [50]), (2, 0, [40, 50]), (9, 0, [10, 20, 30, 40, 50]), (1, 20, [20, 40, 50]), (2, 30, [30, 40, 50])],
)
def test_prune(tmp_path: Path, keep_last: int, keep_every_steps: int, kept: list[int]):
    for step in (10, 20, 30, 40, 50):
        write_checkpoint(tmp_path, step)
    asked = {"keep_last": keep_last, "keep_every_steps": keep_every_steps}
    planned = folders.prunable(tmp_path, **asked)
    assert folders.prune(tmp_path, **asked) == planned
    assert names(folders.list_checkpoints(tmp_path)) == kept
    assert len(list((tmp_path / "checkpoints").iterdir())) == len(kept)


def test_needs_no_torch():
    program = "import sys; from cosmos_train.train import checkpoint_folder; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "False\n", done.stderr
