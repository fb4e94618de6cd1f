"""Parameters learn at the rate that their names ask for, and what is not trained stays as it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import GRADIENT_TOLERANCE, LOSS_TOLERANCE, NORM_TOLERANCE, PARAMETER_TOLERANCE, compare
from support import param_points, tiny_world, training
from support.ranks import RankPool

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
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


@pytest.mark.parametrize("parallel", [ParallelConfig(pp=2), ParallelConfig(pp=2, pp_chunks=2, recompute="full")])
@pytest.mark.parametrize("trained", ["net.blocks.0.*", "net.blocks.3.mlp.*", "net.timestep.*"])
def test_a_stage_of_a_pipeline_may_have_nothing_to_train(
    ranks: Callable[[int], RankPool], tmp_path: Path, parallel: ParallelConfig, trained: str
):
    """The first one passes no gradient on, the last one passes on what it is given; all is as in one process."""
    cache = tiny_world.write_cache(tmp_path / "cache")
    part = (tiny_world.answers_of_part, cache, tmp_path / "run")
    [single] = ranks(1).run(*part, ParallelConfig(), {"*": 0.0, trained: 1.0})
    errors = compare(ranks(2).run(*part, parallel, {"*": 0.0, trained: 1.0}), single)
    assert errors["gradient_error"] <= GRADIENT_TOLERANCE and errors["norm_error"] <= NORM_TOLERANCE, errors
    assert errors["loss_error"] <= LOSS_TOLERANCE and errors["parameter_error"] <= PARAMETER_TOLERANCE, errors


def test_a_run_goes_on_where_a_stage_has_nothing_to_train(ranks: Callable[[int], RankPool], tmp_path: Path):
    """Saved by two stages, one of which has no optimizer and no average, and resumed by one."""
    cache = tiny_world.write_cache(tmp_path / "cache")
    settings = {"num_steps": 4, "optim": {"lr_factors": {"*": 0.0, "net.blocks.3.*": 1.0}, "ema_decay": 0.5}}
    pipeline = ParallelConfig(pp=2)
    ranks(2).run(training.run_loop, cache, tmp_path / "whole", pipeline, settings)
    ranks(2).run(training.run_loop, cache, tmp_path / "run", pipeline, settings | {"stop_at_step": 2})
    ranks(1).run(training.run_loop, cache, tmp_path / "run", ParallelConfig(), settings)
    whole, resumed = training.losses(tmp_path / "whole"), training.losses(tmp_path / "run")
    assert whole == pytest.approx(resumed, rel=1e-5) and len(whole) == 4


def test_a_negative_factor_is_refused():
    with pytest.raises(ConfigError, match=r"optim\.lr_factors\.\*=-1\.0 must be at least 0"):
        load_run("run/demo_world", ["optim.lr_factors={'*':-1}"])
