"""What a start tells of where it comes from."""

from pathlib import Path

from support.checkpoints import write_checkpoint

from cosmos_train.train.lineage import describe_start, is_own


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
