"""A real training of one process: its folder is its own, and nothing of the environment's secrets gets into it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import tiny_world

from cosmos_launch.cli.main import main
from cosmos_train.config.load import load_run, to_yaml
from cosmos_train.parallel.config import ParallelConfig

SECRET = "sesame-open-0123456789"


def test_it_trains_alone_keeps_no_secret_and_leaves_the_folder_when_it_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    run_dir = tmp_path / "run"
    run = tiny_world.make_run(tiny_world.write_cache(tmp_path / "cache"), run_dir, ParallelConfig(), num_steps=100_000)
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    line = [sys.executable, "-m", "cosmos_launch.jobs.worker", str(tmp_path / "run.yaml"), "tracking.wandb=offline"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "WANDB_API_KEY": SECRET}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(line, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while not list(run_dir.glob("checkpoints/step-*/complete.json")):
            assert first.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert json.loads((run_dir / "training.json").read_text())["pid"] == first.pid
        noted = (run_dir / "run.yaml").read_text()
        assert main(["train", str(tmp_path / "run.yaml"), "train.num_steps=4"]) == 2
        assert f"run_dir={run_dir} is being trained by process {first.pid} on host" in capfd.readouterr().err
        assert (run_dir / "run.yaml").read_text() == noted
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    line += ["train.num_steps=1000000", "train.stop_at_step=1"]  # it is past that step, so it stops at once
    assert subprocess.run(line, env=environment, capture_output=True).returncode == 75
    assert load_run(str(run_dir / "run.yaml")).train.num_steps == 1_000_000
    assert not (run_dir / "training.json").exists()
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
