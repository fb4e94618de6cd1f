"""Results in a run's folder are told to its run at W&B, by one process at a time."""

import json
from pathlib import Path

import pytest
from support import wandb_files
from support.checkpoints import write_checkpoint
from support.run_folder import write_run

from cosmos_launch.jobs.run_lock import training_alone
from cosmos_launch.jobs.tell_wandb import tell_wandb
from cosmos_train.train.config import TrackingConfig

WINDOW = {"clip_id": "clip", "start_frame": 0, "model": 0.25, "repeat_last_frame": 0.5}


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run that is done, with an evaluation in it."""
    monkeypatch.setenv("WANDB_DATA_DIR", "")  # what the command sets is undone after the test
    monkeypatch.delenv("WANDB_DATA_DIR")
    folder = tmp_path / "run"
    write_run(folder, {"event": "start", "step": 0}, {"step": 20, "loss": 0.5}, {"event": "done", "step": 20})
    (folder / "wandb_id").write_text("abcd1234\n")
    (folder / "evaluation.json").write_text(json.dumps({"step": 20, "windows": [WINDOW]}))
    return folder


def test_after_the_training_results_are_told_at_once(run_dir: Path):
    checkpoint = write_checkpoint(run_dir, 20)
    for _ in range(2):
        tell_wandb(checkpoint, run_dir / "evaluation.json", TrackingConfig())
    [told] = wandb_files.read(run_dir)
    assert told.run_id == "abcd1234" and told.exit_code == 0
    [row] = told.history
    assert (row["step"], row["evaluation.nrows"]) == (20, 1)
    assert list((run_dir / "wandb" / "artifacts").rglob("tmp*")), "what is uploaded later is in the run's folder"
    assert row["_step"] >= 1, "above the rows of the training"


def test_a_training_tells_of_them_itself(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    with training_alone(run_dir):
        tell_wandb(write_checkpoint(run_dir, 20), run_dir / "evaluation.json", TrackingConfig())
    assert "the run is being trained: its next checkpoint tells W&B" in capsys.readouterr().out
    assert not (run_dir / "wandb").exists()


def test_results_elsewhere_and_runs_without_weights_and_biases_are_left_alone(run_dir: Path, tmp_path: Path):
    checkpoint = write_checkpoint(run_dir, 20)
    tell_wandb(checkpoint, tmp_path / "evaluation.json", TrackingConfig())
    tell_wandb(checkpoint, run_dir / "evaluation.json", TrackingConfig(wandb="disabled"))
    (run_dir / "wandb_id").unlink()
    tell_wandb(checkpoint, run_dir / "evaluation.json", TrackingConfig())
    assert not (run_dir / "wandb").exists()
