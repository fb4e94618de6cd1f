"""What a start tells of where it comes from."""

import dataclasses
from pathlib import Path

import pytest
from support import tiny_world
from support.checkpoints import write_checkpoint

from cosmos_data.sample_plan.order import SAMPLE_ORDER
from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import Progress
from cosmos_train.train.checkpoint.lineage import check_continues, describe_start, is_own


def told_of(folder: Path | None) -> dict:
    job = {"slurm_job_id": "17", "cluster": "big"}
    facts = {"layout": "tp2", "hosts": ["n1", "n1", "n2", "n2"], "code_version": "1.0 abc", "job": job}
    return describe_start(folder, "why", **facts)


def test_where_a_start_runs_and_what_it_comes_from(tmp_path: Path):
    told = told_of(write_checkpoint(tmp_path, 10))
    assert told == {
        "source": "why",
        "layout": "tp2",
        "ranks": 4,
        "nodes": 2,
        "host": "n1",
        "code_version": "1.0 abc",
        "slurm_job_id": "17",
        "cluster": "big",
        "from_folder": str(tmp_path / "checkpoints" / "step-00000010"),
        "from_step": 10,
        "from_wandb_id": None,
        "from_code_version": "",
    }


def test_of_a_foreign_model_there_is_the_folder_alone(tmp_path: Path):
    assert told_of(tmp_path)["from_folder"] == str(tmp_path) and "from_step" not in told_of(tmp_path)
    assert "from_folder" not in told_of(None)


def test_a_checkpoint_is_the_runs_own_in_its_folder_alone(tmp_path: Path):
    folder = write_checkpoint(tmp_path / "parent", 10)
    (tmp_path / "link").symlink_to(tmp_path / "parent")
    assert is_own(folder, tmp_path / "parent") and is_own(folder, tmp_path / "link")
    assert not is_own(folder, tmp_path / "child")


def test_a_run_goes_on_only_in_the_order_of_samples_that_it_began_in(tmp_path: Path):
    run = tiny_world.make_run(tmp_path / "cache", tmp_path / "run", ParallelConfig())
    batch = run.train.global_batch_size
    progress = Progress(
        step=2, samples_consumed=2 * batch, seed=run.seed, data_digest="d", layout="", sample_order=SAMPLE_ORDER
    )
    check_continues(progress, run, "d", tmp_path)
    with pytest.raises(ConfigError, match=r"in sample order 1, and .* in order 2: some would come twice.*init_from="):
        check_continues(dataclasses.replace(progress, sample_order=1), run, "d", tmp_path)
