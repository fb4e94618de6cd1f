"""What a run reads is looked for before it is queued; what an earlier job makes is not."""

from pathlib import Path

import pytest

from cosmos_launch.jobs.inputs import check_inputs, inputs_of
from cosmos_train.config.cluster import ContainerConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run

NO_CONTAINER = ContainerConfig()


def run_of(tmp_path: Path, *overrides: str):
    return load_run("run/demo_world", [f"latents.folder={tmp_path / 'cache'}", *overrides])


def test_what_is_missing_is_named_by_its_key(tmp_path: Path):
    run = run_of(tmp_path)
    with pytest.raises(ConfigError, match=r"latents\.folder=.*cache is not there .*make it first, correct the path"):
        check_inputs(run, NO_CONTAINER)
    check_inputs(run, NO_CONTAINER, made_before=[tmp_path])
    image = ContainerConfig(runtime="pyxis", image="a.sqsh", mounts=("/elsewhere:/inside",))
    check_inputs(run, image)  # inside the image nothing can be looked for
    (tmp_path / "cache").mkdir()
    check_inputs(run, NO_CONTAINER)


def test_a_run_without_a_checkpoint_is_no_start(tmp_path: Path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "first" / "checkpoints" / "step-00000004.partial").mkdir(parents=True)
    run = run_of(tmp_path, f"checkpoint.init_from={tmp_path / 'first'}")
    with pytest.raises(
        ConfigError, match=r"checkpoint\.init_from=.*first is a run that has no complete checkpoint yet"
    ):
        check_inputs(run, NO_CONTAINER)


def test_which_files_each_kind_of_run_reads(tmp_path: Path):
    filled = run_of(tmp_path, "latents.fill=true", "data.manifest=m.parquet")
    assert dict(inputs_of(filled))["data.manifest"] == "m.parquet" and "latents.folder" not in dict(inputs_of(filled))
    assert set(dict(inputs_of(run_of(tmp_path)))) == {"latents.folder"}
    tokenizer = load_run("run/demo_tokenizer", ["data.manifest=m.parquet", "tokenizer_from=t"])
    assert dict(inputs_of(tokenizer)) == {"data.manifest": "m.parquet", "tokenizer_from": "t"}
