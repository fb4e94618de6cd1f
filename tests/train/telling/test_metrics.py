"""metrics.jsonl over restarts and crashes, and what it shares with Weights & Biases, the real one, offline."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from support import wandb_files

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.telling.metrics import Metrics

VALUES = {"loss": 0.51239, "step_sec": 0.25, "data_wait_share": 0.0}


START = {"layout": "tp1 pp1 dp1", "source": "scratch", "code_version": "1.0 abc"}


def open_metrics(run_dir: Path, wandb: Any = "disabled", **more: Any) -> Metrics:
    """Of a run of 8 steps."""
    settings: dict[str, Any] = {"num_steps": 8, "first_step": 0, "wandb_id": None}
    return Metrics(run_dir, TrackingConfig(wandb=wandb), run_config={"seed": 1}, start=START, **settings | more)


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_line_for_each_logged_step_and_each_event(tmp_path: Path):
    with open_metrics(tmp_path) as metrics:
        metrics.step(1, VALUES, is_logged=False)
        metrics.step(2, VALUES, is_logged=True)
        assert len(records(tmp_path)) == 2, "written at once, not at the end"
    start, step = records(tmp_path)
    assert start.pop("time") <= step.pop("time")
    assert start == {"event": "start", "step": 0, **START}
    assert step == {"step": 2, **VALUES}
    assert metrics.wandb_id is None and [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("left_behind", "kept"),
    [
        (b'{"step": 1}\n{"step": 2}\n', [1, 2]),
        (b'{"step": 1}\n{"step": 2, "lo', [1]),
        (b'{"step": 1}\n{"step": 2}', [1]),
        (b'{"st', []),
        (b"", []),
    ],
    ids=["whole", "torn", "without its end", "torn alone", "empty"],
)
def test_a_torn_last_line_is_dropped_on_reopening(tmp_path: Path, left_behind: bytes, kept: list[int]):
    (tmp_path / "metrics.jsonl").write_bytes(left_behind)
    inode = (tmp_path / "metrics.jsonl").stat().st_ino
    with open_metrics(tmp_path, first_step=7):
        pass
    assert [record["step"] for record in records(tmp_path)] == [*kept, 7]
    assert (tmp_path / "metrics.jsonl").stat().st_ino == inode


def test_a_disk_that_is_full_costs_no_whole_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # no byte can be written to any file
    try:
        with pytest.raises(OSError, match="File too large"):
            open_metrics(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_alerts_are_events_and_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with open_metrics(tmp_path) as metrics:
        metrics.step(2, VALUES | {"data_wait_share": 0.75}, is_logged=True)
    [alert] = [record for record in records(tmp_path) if record.get("event") == "alert"]
    sentence = "a step waits for data for 75% of its time (tracking.alert_data_wait_share=0.5)"
    assert (alert["step"], alert["cause"], alert["sentence"]) == (2, "waits for data", sentence)
    assert f"step 2: {sentence}" in caplog.text


def test_weights_and_biases_goes_on_over_a_crash_before_the_first_checkpoint(tmp_path: Path):
    with open_metrics(tmp_path, wandb="auto") as metrics:
        for step in (1, 2, 3):
            metrics.step(step, VALUES | {"loss": 1.0}, is_logged=True)
    with open_metrics(tmp_path, wandb="auto", first_step=1) as metrics:
        for step in (2, 3, 4):
            metrics.step(step, VALUES | {"loss": 0.5}, is_logged=True)
        metrics.alert("slow", "slower than before", step=4)
        metrics.exit_code = 0
    first, second = wandb_files.read(tmp_path)
    assert first.run_id == second.run_id == metrics.wandb_id
    assert first.losses == dict.fromkeys((1, 2, 3), 1.0) and second.losses == dict.fromkeys((2, 3, 4), 0.5)
    rows = [row["_step"] for row in (*first.history, *second.history)]
    assert rows == sorted(set(rows)), "W&B refuses a row that is not above the one before"
    assert (first.exit_code, second.exit_code) == (1, 0), "the first was left without a word"
    assert second.config["seed"] == 1 and second.config["start"] == START
    assert [start["step"] for start in second.config["starts"]] == [0, 1]
    [alert] = second.of("alert")
    assert (alert["title"], alert["text"], alert["level"]) == ("slow", "step 4: slower than before", "WARN")
