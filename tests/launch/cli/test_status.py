"""`cosmos-train status`: a run's folder alone says how far it is and what became of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.run_folder import STEP, write_run

from cosmos_launch.cli.main import main
from cosmos_train.train.telling.rank_times import RankTimes


def shown(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["status", str(run_dir), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_in_progress_with_a_crash_behind_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "run"
    start = {"event": "start", "step": 0}
    write_run(run_dir, start, STEP | {"step": 10}, start | {"step": 10}, STEP | {"step": 20}, torn='{"step": 3')
    write_checkpoint(run_dir, 10)
    (run_dir / "slurm").mkdir()
    (run_dir / "slurm" / "crashes.tsv").write_text("x\tn2\t1\tit was ended by SIGKILL\n")
    found = shown(run_dir, capsys)
    assert (found["step"], found["num_steps"], found["starts"], found["left_sec"]) == (20, 100, 2, 160.0)
    assert found["checkpoints"] == [10] and found["state"].startswith("running, or ended without a word")
    assert main(["status", str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert "20 of 100  loss 0.5" in out and "crash         rank 1 on n2: it was ended by SIGKILL\n" in out


def test_a_run_that_went_back_is_where_it_went_back_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    start, alert = {"event": "start", "step": 0}, {"event": "alert", "step": 30, "sentence": "the step is skipped"}
    steps = [STEP | {"step": step, "loss": float(step)} for step in (10, 20, 30)]
    write_run(tmp_path / "run", start, *steps, alert, start | {"step": 25})
    found = shown(tmp_path / "run", capsys)
    assert (found["step"], found["last"]["loss"], found["left_sec"]) == (25, 20.0, 150.0)
    assert found["alerts"] == ["the step is skipped"]
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "alerts        1, the last: the step is skipped\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "has not started"),
        (["start", "done"], "done"),
        (["start", "stop"], "stopped and saved; the same command"),
        (["start", "failed"], "failed: OSError: gone"),
    ],
)
def test_what_became_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], events: list[str], state: str):
    write_run(tmp_path / "run", *({"event": event, "step": 0, "error": "OSError: gone"} for event in events))
    assert shown(tmp_path / "run", capsys)["state"].startswith(state)


def test_the_slowest_rank_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "run", STEP | {"step": 10})
    phases = {"data": [0.0, 0.0, 0.5], "forward": [0.25, 0.25, 0.25], "backward": [0.5, 0.5, 0.0]}
    phases |= {"optimizer": [0.25] * 3, "save": [0.0] * 3}
    RankTimes(10, ["n1", "n1", "n2"], [0, 0, 0], phases).write(tmp_path / "run")
    assert shown(tmp_path / "run", capsys)["slowest"] == {
        "rank": 2, "host": "n2", "phase": "data", "lost_sec": 0.5, "lost_share": 0.5
    }  # fmt: skip
    assert main(["status", str(tmp_path / "run")]) == 0
    told = "slowest       rank 2 on n2: 500.0 ms a step (50.0%) more than the median rank, in data\n"
    assert told in capsys.readouterr().out


def test_damaged_checkpoints_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "run"
    write_run(run_dir, STEP | {"step": 30})
    for step in (10, 20, 30):
        write_checkpoint(run_dir, step)
    (run_dir / "checkpoints" / "step-00000030" / "complete.json").unlink()
    (run_dir / "checkpoints" / "step-00000020" / "common.pt").write_bytes(b"")
    (run_dir / "ranks.json").write_text("[1]")
    found = shown(run_dir, capsys)
    assert found["checkpoints"] == [10] and found["slowest"] is None
    assert list(found["damaged"]) == ["step-00000020", "step-00000030"]
    assert main(["status", str(run_dir)]) == 0
    assert "step-00000030: complete.json is missing\n" in capsys.readouterr().out


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(tmp_path)]) == 2
    assert "has no run.yaml, so it is no run's folder" in capsys.readouterr().err
