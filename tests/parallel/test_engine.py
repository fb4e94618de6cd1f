"""Every layout gives the single process's answer: loss, every gradient, parameters after three steps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_world
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig

LAYOUTS = {
    "dp2": ParallelConfig(),
    "tp2": ParallelConfig(tp=2),
    "tp2 sequence": ParallelConfig(tp=2, sequence_parallel=True),
    "pp2": ParallelConfig(pp=2),
    "tp2 recompute": ParallelConfig(tp=2, recompute="full"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="module")
def single(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The answers of one process."""
    run_dir = tmp_path_factory.mktemp("single")
    pool = ranks(1)
    return {
        "first": pool.run(tiny_world.first_gradients, cache, run_dir, ParallelConfig())[0],
        "after": pool.run(tiny_world.parameters_after, cache, run_dir, ParallelConfig(), 3)[0],
    }


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_gradients(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, single: dict, layout: ParallelConfig):
    for answer in ranks(2).run(tiny_world.first_gradients, cache, tmp_path, layout):
        assert answer["loss"] == pytest.approx(single["first"]["loss"], rel=1e-6)
        for name, gradient in answer["gradients"].items():
            wanted = single["first"]["gradients"][name]
            error = (gradient - wanted).abs().max() / wanted.abs().max()
            assert error < 1e-5, f"gradient of {name} is off by {error:.1e} of its largest value"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_three_steps(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, single: dict, layout: ParallelConfig
):
    answers = ranks(2).run(tiny_world.parameters_after, cache, tmp_path, layout, 3)
    seen: set[str] = set()
    for answer in answers:
        assert answer["losses"] == pytest.approx(single["after"]["losses"], rel=1e-5)
        assert answer["grad_norms"] == pytest.approx(single["after"]["grad_norms"], rel=1e-5)
        for name, parameter in answer["parameters"].items():
            torch.testing.assert_close(parameter, single["after"]["parameters"][name], rtol=0, atol=1e-5)
        seen |= answer["parameters"].keys()
    assert seen == single["after"]["parameters"].keys(), "together the ranks hold the whole model"
