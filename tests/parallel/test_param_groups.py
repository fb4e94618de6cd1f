"""Parameters learn at the rate that their names ask for, and what is not trained stays as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import param_points, tiny_world, training
from support.ranks import RankPool

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.validate import check_run
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.param_groups import lr_factor


def test_the_last_pattern_that_fits_counts():
    factors = {"*": 0.0, "*.cross_attention.*": 1.0, "*.kv.weight": 0.5}
    names = ("net.embed.weight", "net.blocks.0.cross_attention.q.weight", "net.blocks.0.cross_attention.kv.weight")
    assert [lr_factor(name, factors) for name in names] == [0.0, 1.0, 0.5]
    assert lr_factor("anything", {}) == lr_factor("anything", {"other": 3.0}) == 1.0


@pytest.mark.parametrize("factors", [{}, {"1.*": 0.5, "2.weight": 2.0}, {"0.*": 0.0, "1.bias": 0.0}])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_each_learns_as_torch_has_it(ranks: Callable[[int], RankPool], factors: dict[str, float], num_ranks: int):
    """Weight decay spares what has one dimension: without that, and with it, torch's AdamW is told so by group."""
    found = ranks(num_ranks).run(param_points.learned, factors, torch.float32)
    trained = {name for name in found[0]["pairs"] if lr_factor(name, factors)}
    assert set().union(*(rank["kept"] for rank in found)) == trained
    for rank in found:
        for name, (mine, torchs) in rank["pairs"].items():
            torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"3.*": 0.5, "*.weigth": 0.5}, "has '*.weigth', '3.*', which fits no parameter of this model; its names are"),
        ({"*": 0.0}, "leaves nothing to train"),
    ],
)
def test_what_trains_nothing_is_refused(ranks: Callable[[int], RankPool], factors: dict[str, float], said: str):
    [message] = ranks(1).run(param_points.refusal, factors)
    assert said in message and message.startswith("optim.lr_factors")


def test_a_run_trains_one_part_and_goes_on_with_it(ranks: Callable[[int], RankPool], tmp_path: Path):
    """Under tensor parallelism, with checkpoints and averages: whole again, and no other parameter has moved."""
    cache, parallel = tiny_world.write_cache(tmp_path / "cache"), ParallelConfig(tp=2)
    settings = {"num_steps": 4, "optim": {"lr_factors": {"*": 0.0, "*.cross_attention.*": 1.0}, "ema_decay": 0.5}}
    pool = ranks(2)
    pool.run(training.run_loop, cache, tmp_path / "whole", parallel, settings)
    for stop in (2, None):
        pool.run(training.run_loop, cache, tmp_path / "run", parallel, settings | {"stop_at_step": stop})
    assert training.losses(tmp_path / "run") == training.losses(tmp_path / "whole")
    pool.run(training.run_loop, cache, tmp_path / "fresh", parallel, {"num_steps": 1, "optim": {"lr": 1e-30}})
    [after, *_], [before, *_] = (
        pool.run(training.saved_average, cache, tmp_path / name, parallel) for name in ("run", "fresh")
    )
    moved = {name for name, value in after.items() if (value - before[name]).abs().max() > 1e-20}
    assert moved and all(".cross_attention." in name for name in moved)


def test_a_pipeline_needs_something_to_train_on_every_stage():
    run = load_run("run/demo_world", ["parallel.pp=2", "optim.lr_factors={'*':0,'*.mlp.*':1}"])
    with pytest.raises(ConfigError, match=r"parallel\.pp=2: a pipeline stage without any .* use parallel\.pp=1"):
        check_run(run, 2)
    check_run(load_run("run/demo_world", ["parallel.pp=2", "optim.lr_factors={'*':0.1}"]), 2)


def test_a_negative_factor_is_refused():
    with pytest.raises(ConfigError, match=r"optim\.lr_factors\.\*=-1\.0 must be at least 0"):
        load_run("run/demo_world", ["optim.lr_factors={'*':-1}"])
