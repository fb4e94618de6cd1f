"""A run's folder is looked at before anything is written into it, and what was there survives a full disk."""

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import tiny_world, training
from support.checkpoints import flip, write_checkpoint
from support.ranks import RankPool

from cosmos_launch.cli.main import main
from cosmos_launch.jobs import worker
from cosmos_launch.jobs.run_folder import check_is_writable, check_run_folder, write_run_folder
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run, to_yaml
from cosmos_train.config.schema import RunConfig
from cosmos_train.parallel.config import ParallelConfig


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """Whose folder has its YAML and a checkpoint."""
    run = tiny_world.make_run(tmp_path / "cache", tmp_path / "run", ParallelConfig())
    write_checkpoint(tmp_path / "run", 10)
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    write_run_folder(run)
    return run


def changed(tmp_path: Path, *overrides: str) -> RunConfig:
    return load_run(str(tmp_path / "run.yaml"), overrides)


def test_the_same_run_may_change_what_a_resume_may_change(run: RunConfig, tmp_path: Path):
    check_run_folder(run)
    check_run_folder(changed(tmp_path, "parallel.tp=2", "train.num_steps=9", "train.micro_batch_size=2", "optim.lr=1"))


@pytest.mark.parametrize("name", ["demo_tokenizer", "simulated_tokenizer_discrete", "simulated_world_ar"])
def test_every_kind_of_run_is_the_same_as_itself(tmp_path: Path, name: str):
    run = load_run(f"run/{name}", [f"run_dir={tmp_path}"])
    write_checkpoint(tmp_path, 10)
    write_run_folder(run)
    check_run_folder(run)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=4", "is the folder of a run with seed=3, and this run has seed=4"),
        ("train.global_batch_size=8", "a run with train.global_batch_size=4, and this run has"),
        ("model.num_blocks=8", "a run with model.num_blocks=4, and this run has model.num_blocks=8"),
    ],
)
def test_another_run_is_refused_where_there_is_a_checkpoint(run: RunConfig, tmp_path: Path, override: str, said: str):
    other = changed(tmp_path, override)
    with pytest.raises(ConfigError) as caught:
        check_run_folder(other)
    sentence = str(caught.value)
    assert said in sentence and "use another folder" in sentence and "\n" not in sentence
    (tmp_path / "run" / "checkpoints" / "step-00000010" / "complete.json").unlink()
    check_run_folder(other)


@pytest.mark.parametrize("start", [lambda line: main(["train", *line]), worker.main])
def test_what_another_run_s_folder_says_of_it_stays(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], start
):
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert start(["run/demo_tokenizer", f"run_dir={run.run_dir}"]) == 2
    assert "is the folder of a world_dit run, and this is a tokenizer run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("refused_of", ["the data", "the architecture", "damage alone"])
def test_a_start_that_is_refused_changes_nothing(ranks: Callable[[int], RankPool], tmp_path: Path, refused_of: str):
    """Also what it finds damaged or half-written on its way stays where it is."""
    cache, run_dir = tiny_world.write_cache(tmp_path / "cache"), tmp_path / "run"
    other = tiny_world.write_cache(tmp_path / "other", num_windows=9)
    run = tiny_world.make_run(cache, run_dir, ParallelConfig())
    ranks(1).run(training.run_loop, cache, run_dir, ParallelConfig(), {})
    write_run_folder(run)
    (run_dir / "checkpoints" / "step-00000004" / "complete.json").unlink()
    (run_dir / "checkpoints" / "step-00000006.partial").mkdir()
    changed = replace(run, optim=replace(run.optim, lr=0.5))
    if refused_of == "the data":
        changed, said = replace(changed, latents=replace(run.latents, folder=str(other))), "was trained on data with"
    elif refused_of == "the architecture":
        (run_dir / "run.yaml").unlink()  # which the first look would refuse by
        changed, said = replace(changed, model=replace(run.model, adaln_rank=4)), "is of another architecture"
    else:
        flip(run_dir / "checkpoints" / "step-00000002" / "common.pt")
        said = "all 2 checkpoints of"
    before = content_of(run_dir)
    [(_, message)] = ranks(1).run(training.failure_of, worker.run_rank, changed)
    assert said in message and content_of(run_dir) == before


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Every path in it, with what a file holds."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_write_that_fails_leaves_the_yaml_that_was_there(run: RunConfig, tmp_path: Path):
    before = (tmp_path / "run" / "run.yaml").read_text()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, unlimited[1]))  # as a full disk: nothing larger can be written
    try:
        with pytest.raises(OSError, match="File too large"):
            write_run_folder(changed(tmp_path, "train.num_steps=9"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (tmp_path / "run" / "run.yaml").read_text() == before
    assert not list((tmp_path / "run").glob(".*"))


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not root, who may write everywhere."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_a_folder_that_can_not_be_written_is_refused_with_the_remedy(tmp_path: Path, nobody: None):
    for folder in ("/etc/runs/x", "/etc"):
        with pytest.raises(ConfigError) as caught:
            check_is_writable(Path(folder))
        said = f"run_dir={folder}: /etc can not be written by you (user {os.geteuid()}), and a run's checkpoints"
        assert said in str(caught.value) and "set run_dir to a folder that you may write" in str(caught.value)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert main(["train", "run/demo_world", f"run_dir={tmp_path}/file/run"]) == 2
    assert f"run_dir={tmp_path}/file/run: {tmp_path}/file is no folder" in capsys.readouterr().err
