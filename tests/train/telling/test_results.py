"""Videos and evaluations that other commands leave in a run's folder, told to W&B once, offline, the real one."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from support import wandb_files

from cosmos_data.videos.media import write_mp4
from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.telling.metrics import Metrics

VALUES = {"loss": 0.5, "step_sec": 0.25, "data_wait_share": 0.0}
WINDOWS = [
    {"clip_id": f"clip{index}", "start_frame": 8 * index, "model": 0.25, "repeat_last_frame": 0.5} for index in (0, 1)
]


def open_metrics(run_dir: Path, first_step: int = 0) -> Metrics:
    settings: dict[str, Any] = {"num_steps": 8, "wandb_id": None, "run_config": {}, "start": {}}
    return Metrics(run_dir, TrackingConfig(), first_step=first_step, **settings)


def write_sample(run_dir: Path, name: str, seed: int) -> None:
    folder = run_dir / "samples"
    folder.mkdir(exist_ok=True)
    write_mp4(folder / f"{name}.mp4", torch.full((3, 5, 32, 48), 20 * seed, dtype=torch.uint8), fps=8)
    (folder / f"{name}.json").write_text(json.dumps({"seed": seed, "prompt": "a street", "step": 2, "fps": 8}))


def media(start: wandb_files.OfflineRun, kind: str) -> list[Path]:
    return sorted((start.folder / "files" / "media" / kind).rglob("*.*"))


def test_samples_and_evaluations_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 2, "windows": WINDOWS}))
    write_sample(tmp_path, "seed-0003", 3)
    with open_metrics(tmp_path) as metrics:
        metrics.step(2, VALUES, is_logged=True)
        metrics.tell_results()
        metrics.tell_results()
        write_sample(tmp_path, "seed-0004", 4)
        (tmp_path / "samples" / "torn.mp4").write_bytes(b"its JSON is not written yet")
    with open_metrics(tmp_path, first_step=2):
        pass
    first, second = wandb_files.read(tmp_path)
    told = [{name.split(".")[0] for name in row} & {"samples", "samples_videos", "evaluation"} for row in first.history]
    assert told == [set(), {"samples", "samples_videos"}, {"evaluation"}, {"samples", "samples_videos"}]
    assert [row["step"] for row in first.history] == [2, 2, 2, 2] and not second.history
    tables = [json.loads(path.read_text()) for path in media(first, "table")]
    rows = list(chain.from_iterable(table["data"] for table in tables if "file" in table["columns"]))
    assert sorted(row[:4] for row in rows) == [
        ["samples/seed-0003.mp4", 2, 3, "a street"],
        ["samples/seed-0004.mp4", 2, 4, "a street"],
    ]
    [evaluation] = [table for table in tables if "file" not in table["columns"]]
    assert evaluation["columns"] == ["step", "clip_id", "start_frame", "model", "repeat_last_frame"]
    assert evaluation["data"][1] == [2, "clip1", 8, 0.25, 0.5]
    videos = {path.read_bytes() for path in media(first, "videos")}
    assert videos == {(tmp_path / "samples" / f"seed-000{seed}.mp4").read_bytes() for seed in (3, 4)}


def test_what_can_not_be_read_is_told_of_and_costs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "evaluation.json").write_text('{"step": 2, "win')
    with open_metrics(tmp_path) as metrics:
        metrics.step(2, VALUES, is_logged=True)
    assert "can not be read now: JSONDecodeError" in caplog.text
    [start] = wandb_files.read(tmp_path)
    assert start.losses == {2: 0.5}
