"""`cosmos-train ema`: a folder that a checkpoint is read from, or one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_launch.cli.main import main
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import damage_of, newest_checkpoint, resolve
from cosmos_train.train.checkpoint.load import tensor_names


@pytest.fixture(scope="module")
def run_dir(ranks: Callable[[int], RankPool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of eight steps, with snapshots of two widths after every fourth."""
    folder = tmp_path_factory.mktemp("kept")
    cache = tiny_world.write_cache(folder / "cache")
    optim = {"ema_sigma_rels": (0.1, 0.2), "ema_snapshot_every_steps": 4}
    settings = {"num_steps": 8, "optim": optim}
    ranks(1).run(training.run_loop, cache, folder / "run", ParallelConfig(), settings)
    return folder / "run"


@pytest.fixture(autouse=True)
def alone():
    """The command joins the groups of a single process, and leaves them."""
    yield
    init.stop()


def test_writes_weights_alone(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ema", str(run_dir), "--sigma-rel", "0.15", "--out", str(tmp_path / "made")]) == 0
    assert "power-law average of sigma_rel 0.15" in capsys.readouterr().out
    assert resolve(tmp_path / "made") == tmp_path / "made"
    assert damage_of(tmp_path / "made") == []
    names = set(tensor_names(tmp_path / "made"))
    newest = newest_checkpoint(run_dir)
    assert newest is not None
    assert names == {name for name in tensor_names(newest) if name.startswith("model.")}


def test_a_damaged_snapshot_is_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(run_dir, tmp_path / "run")
    [victim] = (tmp_path / "run" / "ema" / "step-00000004").glob("weights_*")
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    assert main(["ema", str(tmp_path / "run"), "--sigma-rel", "0.15", "--out", str(tmp_path / "made")]) == 1
    assert f"{victim.name} differs from its digest" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_says_where_the_snapshots_are_too_few(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = ["ema", str(run_dir), "--sigma-rel", "0.01", "--step", "4", "--out", str(tmp_path / "made")]
    assert main(line) == 0
    assert "optim.ema_snapshot_every_steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--sigma-rel", "0.5"], 2, "sigma_rel=0.5 is no width of a power-law average"),
        (["--sigma-rel", "0.1", "--step", "5"], 1, "none of step 5: there are 4, 8"),
    ],
)
def test_wrong_input(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
):
    assert main(["ema", str(run_dir), *more, "--out", str(tmp_path / "made")]) == code
    assert said in capsys.readouterr().err and not (tmp_path / "made").exists()
