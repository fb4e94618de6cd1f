"""A whole run that is killed before its first checkpoint is one run at W&B, and its key is nowhere."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tiny_world, training, wandb_files
from support.wandb_server import API_KEY

from cosmos_train.config.load import to_yaml
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.telling.wandb_run import FLUSH_SEC


def start(config: Path, override: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "cosmos_launch.jobs.worker", str(config), "tracking.wandb=offline", override]
    environment = os.environ | {"WANDB_API_KEY": API_KEY}
    environment.pop("WANDB_SERVICE", None)  # W&B's process of other tests, which would outlive this one
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.long
def test_killed_before_its_first_checkpoint_and_started_again(tmp_path: Path):
    cache, run_dir = tiny_world.write_cache(tmp_path / "cache"), tmp_path / "run"
    run = tiny_world.make_run(cache, run_dir, ParallelConfig(), num_steps=100_000)
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    killed = start(tmp_path / "run.yaml", "checkpoint.every_steps=100000")
    deadline = time.monotonic() + 120
    while not (run_dir / "metrics.jsonl").is_file() or len(training.losses(run_dir)) < 3:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    time.sleep(2 * FLUSH_SEC)
    killed.kill()
    outputs = [killed.communicate()[0]]
    again = start(tmp_path / "run.yaml", "train.stop_at_step=2")
    outputs += [again.communicate(timeout=120)[0]]
    assert again.returncode == 75, outputs[1]
    first, second = wandb_files.read(run_dir)
    assert first.run_id == second.run_id
    assert {1, 2, 3} <= set(first.losses) and set(second.losses) == {1, 2}
    assert (first.exit_code, second.exit_code) == (None, 75)
    rows = [row["_step"] for row in (*first.history, *second.history)]
    assert rows == sorted(set(rows))
    assert second.config["train"]["num_steps"] == 100_000 and len(second.config["starts"]) == 2
    assert [path for path in run_dir.rglob("*") if path.is_file() and API_KEY.encode() in path.read_bytes()] == []
    assert API_KEY not in "".join(outputs)
