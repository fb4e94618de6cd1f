"""`cosmos-train status`: a run's folder alone says how far it is and what became of it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint

from cosmos_launch.cli import main
from cosmos_train.config.load import load_run, to_yaml

STEP = {"loss": 0.5, "step_sec": 2.0, "samples_per_sec": 4.0}


def write_run(run_dir: Path, *records: dict[str, Any], torn: str = "") -> None:
    run_dir.mkdir(parents=True)
    (run_dir / "run.yaml").write_text(to_yaml(load_run("run/demo_world", ["train.num_steps=100"])))
    lines = "".join(json.dumps({"time": time.time()} | record) + "\n" for record in records)
    (run_dir / "metrics.jsonl").write_text(lines + torn)


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


@pytest.mark.parametrize(
    ("events", "state"),
    [([], "has not started"), (["start", "done"], "done"), (["start", "stop"], "stopped and saved; the same command")],
)
def test_what_became_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], events: list[str], state: str):
    write_run(tmp_path / "run", *({"event": event, "step": 0} for event in events))
    assert shown(tmp_path / "run", capsys)["state"].startswith(state)


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", str(tmp_path)]) == 2
    assert "has no run.yaml, so it is no run's folder" in capsys.readouterr().err
