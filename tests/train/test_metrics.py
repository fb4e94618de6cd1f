"""metrics.jsonl, plain lines, and Weights & Biases offline, the real one: the same run id after a restart."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.metrics import Metrics, as_perplexity, as_ratio, ratios

VALUES = {"loss": 0.51239, "grad_norm": 2.0, "lr": 1e-3, "step_sec": 0.25}


def open_metrics(run_dir: Path, wandb: Any = "disabled", **more: Any) -> Metrics:
    """Of a run of 8 steps."""
    settings: dict[str, Any] = {"num_steps": 8, "first_step": 0, "wandb_id": None, "wandb_online": False}
    return Metrics(run_dir, TrackingConfig(wandb=wandb), run_config={"seed": 1}, **settings | more)


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_pairs_become_ratios_where_something_counted():
    values = {"loss": 2.0, **as_ratio("error", 6.0, 4.0), **as_ratio("never", 0.0, 0.0)}
    assert ratios(values) == {"loss": 2.0, "error": 1.5}
    assert ratios(as_perplexity("perplexity", 3 * math.log(8), 3.0)) == {"perplexity": pytest.approx(8)}


def test_a_line_for_each_logged_step_and_each_event(tmp_path: Path):
    metrics = open_metrics(tmp_path)
    metrics.event("start", step=0, layout="tp1 pp1 dp1")
    metrics.step(1, VALUES, is_logged=False)
    metrics.step(2, VALUES, is_logged=True)
    assert len(records(tmp_path)) == 2, "written at once, not at the end"
    metrics.close()
    start, step = records(tmp_path)
    assert start.pop("time") <= step.pop("time")
    assert start == {"event": "start", "step": 0, "layout": "tp1 pp1 dp1"}
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
    metrics = open_metrics(tmp_path)
    metrics.event("start", step=7)
    metrics.close()
    assert [record["step"] for record in records(tmp_path)] == [*kept, 7]


def test_plain_lines_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    metrics = open_metrics(tmp_path, first_step=2)
    metrics.started -= 100.0  # so long ago
    metrics.step(3, VALUES, is_logged=False)
    metrics.step(4, VALUES, is_logged=True)
    metrics.step(8, VALUES, is_logged=True)
    metrics.close()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("step 4/8  loss 0.5124  grad_norm 2  lr 0.001  step_sec 0.25  left 3 min 20 s")
    assert last.startswith("step 8/8 ") and last.endswith("left 0 s")
    assert "\x1b" not in first + last


def test_a_bar_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich: stdout is one
    metrics = open_metrics(tmp_path)
    metrics.step(8, VALUES, is_logged=True)
    metrics.close()
    shown = capsys.readouterr().out
    assert "8/8" in shown and "loss 0.5124" in shown and "step 8/8  loss" not in shown


def test_weights_and_biases_goes_on_under_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    ids = []
    for first_step in (0, 4):
        metrics = open_metrics(tmp_path, wandb="auto", first_step=first_step, wandb_id=ids[0] if ids else None)
        metrics.step(first_step + 2, VALUES, is_logged=True)
        ids.append(metrics.wandb_id)
        metrics.close()
    assert ids[0] and ids[0] == ids[1]
    written = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.parent for path in written}) == 2
    assert {path.name for path in written} == {f"run-{ids[0]}.wandb"}
    assert all(path.parent.name.endswith(f"-{ids[0]}") for path in written)
    # W&B's own process writes the files, and may still do so when finish() returned.
    deadline = time.monotonic() + 60
    while not all(b"grad_norm" in path.read_bytes() for path in written):
        assert time.monotonic() < deadline, "what was logged is not in the files"
        time.sleep(0.2)
