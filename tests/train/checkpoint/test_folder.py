"""Checkpoints as folders: which there are, whether they are whole, which may go. No torch, no training."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import flip, seal_again, write_checkpoint, write_common
from support.damaging import draw_damage

from cosmos_train.train.checkpoint import folder as folders
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
        (lambda folder: (folder / "common.pt").write_bytes(b"b"), ["common.pt has 1 bytes instead of "]),
        (lambda folder: flip(folder / "common.pt"), ["common.pt differs from its digest"]),
        (lambda folder: (folder / folders.DIGESTS).write_text("{"), ["digests.json is not the one that"]),
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
    flip(folder / "__0_0.distcp")
    assert folders.damage_of(folder, contents=False) == []
    (folder / "__0_0.distcp").write_bytes(b"c")
    assert folders.damage_of(folder, contents=False) == ["__0_0.distcp has 1 bytes instead of 100"]
    assert folders.damage_of(folder, only={"run.yaml", "common.pt"}) == [], "others are not looked at"
    (folder / folders.DIGESTS).unlink()
    assert folders.damage_of(folder, contents=False) == ["digests.json is missing"]
    older = write_checkpoint(tmp_path, 2, format=2)
    (older / folders.DIGESTS).unlink()
    assert folders.damage_of(older, contents=False) == []


def test_a_sealed_folder_is_on_the_disk_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    partial, final = tmp_path / "step-00000001.partial", tmp_path / "step-00000001"
    partial.mkdir()
    for name in ("weights_00000.distcp", "common.pt", "run.yaml"):
        (partial / name).write_text(name)
    flushed: list[tuple[str, bool]] = []
    original = os.fsync

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
        "common.pt": folders.digest_of(final / "common.pt"),
        "run.yaml": folders.digest_of(final / "run.yaml"),
    }
    assert folders.read_progress(final) == progress


def sealed(run_dir: Path, step: int) -> Path:
    """A checkpoint as this version seals it."""
    partial = run_dir / "checkpoints" / f"step-{step:08d}.partial"
    partial.mkdir(parents=True)
    for name in ("weights_00000.distcp", "run.yaml"):
        (partial / name).write_text(f"{name} of step {step}")
    write_common(partial / "common.pt", {"adam_step": step})
    final = partial.with_suffix("")
    progress = folders.Progress(
        step=step, samples_consumed=4 * step, seed=0, data_digest="", layout="", skipped_steps=0
    )
    folders.seal(partial, final, progress, {})
    return final


@given(data=st.data())
@settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_change_goes_unseen(tmp_path: Path, data: st.DataObject):
    """Of any file and any field: what is not as it was written is damaged, and is told and no error of the program."""
    run_dir = tmp_path / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    folder, other = sealed(run_dir, 4), sealed(run_dir, 8)
    assert folders.damage_of(folder) == folders.damage_of(other) == []
    damage = draw_damage(data, folder, other)
    assert damage.is_none() or folders.damage_of(folder)


@pytest.mark.parametrize(
    ("updates", "skipped_steps", "fits"),
    [
        (12, 0, True),
        (9, 3, True),  # of steps whose loss was not finite
        (12, None, True),  # before format 4 nobody noted what was skipped
        (9, None, True),
        (13, None, False),
        (10, 0, False),
        (14, -2, False),
        (12, 1, False),
        (-1, 13, False),
        (None, None, True),  # weights alone
        (None, 0, False),
        (True, 11, False),
        ("12", 0, False),
        ([], None, False),
    ],
)
def test_the_optimizer_has_made_the_steps(tmp_path: Path, updates: Any, skipped_steps: int | None, fits: bool):
    """What complete.json says is compared with the optimizer's own count, which is proved by its digest only."""
    folder = write_checkpoint(tmp_path, 12)
    write_common(folder / "common.pt", {} if updates is None else {"adam_step": updates})
    seal_again(folder, replace(folders.read_progress(folder), skipped_steps=skipped_steps))
    for contents in (True, False):
        found = folders.damage_of(folder, contents=contents)
        assert not found if fits else found and "and the optimizer's own count is" in found[0]
    assert folders.damage_of(folder, part=1, num_parts=2) == [], "told once"
    assert folders.damage_of(folder, only={"run.yaml"}) == [], "for weights alone it does not matter"


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps(b"none"), "object", "list"])
def test_a_common_file_that_is_none_is_damage(tmp_path: Path, content: Any):
    folder = write_checkpoint(tmp_path, 12)
    common = folder / "common.pt"
    if isinstance(content, bytes):
        common.write_bytes(content)
    else:
        write_common(common, {"object": {"adam_step": Path()}, "list": [12]}[content])
    seal_again(folder, folders.read_progress(folder))
    [found] = folders.damage_of(folder)
    assert found.startswith("common.pt can not be read: ")


def test_of_a_checkpoint_of_format_2_what_it_has_is_compared(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 12, format=2)
    assert folders.damage_of(folder) == []
    (folder / "more.distcp").write_text("")
    assert folders.damage_of(folder) == ["more.distcp is in no digest"]
    (folder / "more.distcp").unlink()
    folder.rename(folder.with_name("step-00000099"))
    assert folders.damage_of(folder.with_name("step-00000099")) == ["it is named step-00000099 and holds step 12"]


def test_what_lies_about_stops_no_start(tmp_path: Path):
    """Links and files under names of ours are removed, and nothing that links lead to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "step-00000100.partial").symlink_to(elsewhere)
    (run_dir / "checkpoints" / "step-00000200.partial").write_text("")
    (run_dir / "checkpoints" / "step-00000300.partial").symlink_to(tmp_path / "absent")
    (run_dir / "checkpoints" / "step-00000400").write_text("")
    assert len(folders.remove_partial(run_dir)) == 3
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-00000400"]
    assert folders.list_checkpoints(run_dir) == [] and (elsewhere / "kept").exists()
    one = sealed(run_dir, 4)
    one.rename(elsewhere / "moved")
    one.symlink_to(elsewhere / "moved")
    sealed(run_dir, 8)
    assert folders.damage_of(one) == [], "a link to a checkpoint is one"
    folders.prune(run_dir, CheckpointConfig(keep_last=1))
    assert not one.is_symlink() and folders.damage_of(elsewhere / "moved") == []
    aside = run_dir / "checkpoints" / "step-00000008.damaged"
    aside.symlink_to(elsewhere)
    assert folders.set_aside(run_dir / "checkpoints" / "step-00000008", "its disk died") == aside
    assert (aside / "damage.txt").read_text() == "its disk died\n" and (elsewhere / "kept").exists()


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
    program = "import sys; from cosmos_train.train.checkpoint import folder; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "False\n", done.stderr
