"""Folders that look like a run's from outside, made without training."""

import json
import time
from pathlib import Path
from typing import Any

from cosmos_train.config.load import load_run, to_yaml

STEP = {"loss": 0.5, "step_sec": 2.0, "samples_per_sec": 4.0}
"""Of a logged step."""


def write_run(run_dir: Path, *records: dict[str, Any], torn: str = "") -> None:
    """run.yaml of 100 steps, and lines of metrics.jsonl, of which a crash may have torn the last."""
    run_dir.mkdir(parents=True)
    (run_dir / "run.yaml").write_text(to_yaml(load_run("run/demo_world", ["train.num_steps=100"])))
    lines = "".join(json.dumps({"time": time.time()} | record) + "\n" for record in records)
    (run_dir / "metrics.jsonl").write_text(lines + torn)


def write_evaluation(run_dir: Path, step: int, model: float) -> None:
    """RUN/evaluation-STEP.json, of which the report reads this much."""
    errors = {"model": model, "repeat_last_frame": 1.5}
    facts = {"step": step, "measure": "latent_mse", "latent_mse": errors, "num_condition_frames": 1, "num_windows": 32}
    (run_dir / f"evaluation-{step}.json").write_text(json.dumps(facts))
