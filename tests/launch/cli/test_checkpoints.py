"""`cosmos-train checkpoint`: what is listed, what is found damaged, what is removed, how two differ."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_world, training
from support.checkpoints import flip, write_checkpoint
from support.ranks import RankPool

from cosmos_launch.cli.main import main
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import set_aside
from cosmos_train.train.checkpoint.judge import _check_of


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        write_checkpoint(tmp_path / "run", step)
    return tmp_path / "run"


def test_ls(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["checkpoint", "ls", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("step ")[1].split()[0] for line in lines] == ["10", "20", "30"]
    assert all("GiB" in line and "tp1" in line for line in lines)


def test_verify_names_what_is_damaged(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["checkpoint", "verify", str(run_dir)]) == 0
    assert capsys.readouterr().out.count(": whole\n") == 3
    flip(run_dir / "checkpoints" / "step-00000020" / "common.pt")
    assert main(["checkpoint", "verify", str(run_dir)]) == 1
    assert "step-00000020: common.pt differs from its digest\n" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(run_dir / "checkpoints" / "step-00000010")]) == 0


def test_ls_and_verify_go_on_past_what_is_damaged(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Of every kind: each is named with its reason, and what is whole is shown."""
    folder = run_dir / "checkpoints"
    (folder / "step-00000010" / "complete.json").write_text("{}")
    (folder / "step-00000020" / "complete.json").unlink()
    (folder / "step-00000040").symlink_to(run_dir / "unmounted")
    newer = write_checkpoint(run_dir, 50) / "complete.json"
    values = json.loads(newer.read_text()) | {"format": 99}
    del values["check"]
    newer.write_text(json.dumps(values | {"check": _check_of(values)}))
    set_aside(write_checkpoint(run_dir, 60), "its disk died")
    assert main(["checkpoint", "ls", str(run_dir)]) == 0
    whole, *damaged = capsys.readouterr().out.splitlines()
    assert whole.startswith(f"{folder}/step-00000030  step       30")
    said = [
        ("step-00000010", "complete.json lacks"),
        ("step-00000020", "complete.json is missing"),
        ("step-00000040", "complete.json is missing"),
        ("step-00000050", f"{folder}/step-00000050 has checkpoint format 99"),
        ("step-00000060.damaged", "set aside (its disk died)"),
    ]
    assert len(damaged) == len(said)
    for line, (name, why) in zip(damaged, said, strict=True):
        assert line.startswith(f"{folder}/{name}  damaged: {why}")
    assert main(["checkpoint", "verify", str(run_dir)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith(": whole") for line in lines] == [False, False, True, False, False]
    assert main(["checkpoint", "verify", str(folder / "step-00000020")]) == 1
    assert capsys.readouterr().out == f"{folder}/step-00000020: complete.json is missing\n"


def test_verify_looks_at_snapshots_of_averages_too(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    (write_checkpoint(run_dir, 20, parent="ema") / "digests.json").unlink()
    assert main(["checkpoint", "verify", str(run_dir)]) == 1
    assert "ema/step-00000020: digests.json is missing\n" in capsys.readouterr().out


def test_prune_keeps_the_best(tmp_path: Path):
    for step, score in ((10, 0.2), (20, 0.7), (30, 0.4)):
        write_checkpoint(tmp_path, step, score=score)
    best = ["--keep-best", "1", "--best-is", "highest"]
    assert main(["checkpoint", "prune", str(tmp_path), "--keep-last", "1", *best]) == 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000020", "step-00000030"]


def test_prune(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["checkpoint", "prune", str(run_dir), "--keep-last", "1", "--keep-every", "20"]) == 0
    assert capsys.readouterr().out == f"removed {run_dir}/checkpoints/step-00000010\n"
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["step-00000020", "step-00000030"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ls nowhere", "nowhere is no run's folder with complete checkpoints"),
        ("prune run", "checkpoint prune needs --keep-last N of 1 or more"),
        ("prune run --keep-last 0", "checkpoint prune needs --keep-last N of 1 or more"),
        ("diff run", "checkpoint diff compares two checkpoints, and 1 were named"),
    ],
)
def test_wrong_input(line: str, said: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(run_dir.parent)
    assert main(["checkpoint", *line.split()]) == 2
    assert said in capsys.readouterr().err


def test_diff_of_two_steps_of_a_run(ranks: Callable[[int], RankPool], tmp_path: Path):
    cache = tiny_world.write_cache(tmp_path / "cache")
    ranks(1).run(training.run_loop, cache, tmp_path / "run", ParallelConfig(), {"num_steps": 4})
    one, other = (tmp_path / "run" / "checkpoints" / f"step-{step:08d}" for step in (2, 4))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "cosmos_launch.cli", "checkpoint", "diff"]
    done = subprocess.run([*line, one, other], capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert "step: 2 | 4" in lines and "samples_consumed: 8 | 16" in lines
    changed = [line for line in lines if line.startswith("model.net.blocks.") and "of its norm" in line]
    assert len(changed) > 20
    # What was 0 at first has moved about as far again: that is near 1.
    assert all(0 < float(line.split("differs by ")[1].split()[0]) < 3 for line in changed)
    same = subprocess.run([*line, one, one], capture_output=True, text=True, env=environment)
    assert (same.returncode, same.stdout) == (0, f"{one} and {one} are alike\n")
