"""Training Medusa heads: what is trained and what stays, the same in every layout, from a model without heads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_ar, tiny_world
from support.ranks import RankPool

from cosmos_launch.jobs.worker import run_rank
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun
from cosmos_train.objectives.medusa import further_targets, medusa_loss
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import resolve
from cosmos_train.train.checkpoint.load import read_tensors, tensor_names

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "tp": (2, {"tp": 2}),
    "sequence parallel": (2, {"tp": 2, "sequence_parallel": True}),
    "cp": (2, {"cp": 2}),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ar.write_cache(tmp_path_factory.mktemp("codes") / "cache", shape_THW=(3, 2, 3))


PAPER = {"*": 0.0, "medusa.*": 1.0, "output.*": 1.0, "blocks.[23].*": 1.0}
"""The heads, the output matrix and the last two of four blocks."""


def make_run(cache: Path, run_dir: Path, parallel: ParallelConfig, lr_factors: dict[str, float]) -> WorldARRun:
    run = tiny_ar.make_run(cache, run_dir, parallel, micro_batch_size=4)
    optim = replace(run.optim, lr_factors=lr_factors)
    return replace(run, model=replace(run.model, medusa_heads=3), optim=optim)


def trained(cache: Path, run_dir: Path, parallel: ParallelConfig, lr_factors: dict[str, float], num_steps: int) -> Any:
    """Metrics of each step, and the parameters before and after."""
    task, engine, mesh = tiny_world.start(run := make_run(cache, run_dir, parallel, lr_factors))
    before = tiny_world.whole_parameters(task, mesh)
    metrics = [result.metrics for result in tiny_world.train_steps(run, task, engine, mesh, num_steps, lr=1e-2)]
    return metrics, before, tiny_world.whole_parameters(task, mesh)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_learns_the_same(layout: str, cache: Path, tmp_path: Path, ranks: Callable[[int], RankPool]):
    [(alone, _, wanted)] = ranks(1).run(trained, cache, tmp_path / "alone", ParallelConfig(), {}, 2)
    num_ranks, parallel = LAYOUTS[layout]
    found = ranks(num_ranks).run(trained, cache, tmp_path / "divided", ParallelConfig(**parallel), {}, 2)
    for metrics, _, after in found:
        assert metrics[-1] == pytest.approx(alone[-1], rel=1e-5)
        for name, value in after.items():
            torch.testing.assert_close(value, wanted[name], atol=1e-4, rtol=1e-4, msg=name)


def test_heads_learn_what_they_see(cache: Path, tmp_path: Path, ranks: Callable[[int], RankPool]):
    """Twelve windows of random codes, again and again. The heads begin as the model's own guess of another code."""
    [(metrics, before, after)] = ranks(1).run(trained, cache, tmp_path, ParallelConfig(), PAPER, 80)
    assert sorted(metrics[0]) == ["loss", "nll", "nll_1", "nll_2", "nll_3"]
    for name in metrics[0]:
        assert metrics[-1][name] < 0.8 * metrics[0][name], name
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.startswith(("medusa.", "output.", "blocks.2.", "blocks.3."))}


def test_targets_and_loss_by_hand():
    targets = further_targets(torch.tensor([[4, 5, 6, 7]]), 2)
    assert targets.tolist() == [[[4, 5, 6], [5, 6, 7], [6, 7, 0], [7, 0, 0]]]
    nll = torch.arange(12.0).reshape(4, 1, 3)
    loss, means = medusa_loss(nll, torch.tensor([False, True, True, True]), 0.5)
    assert means.tolist() == [6.0, (4 + 7) / 2, 5.0]
    assert loss.item() == 6 + 0.5 * 5.5 + 0.25 * 5


def test_from_a_model_without_heads(cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    """Through the loop: its averages and its checkpoint too, which a model of another width does not take."""
    trunk = replace(tiny_ar.make_run(cache, tmp_path / "trunk", ParallelConfig(), num_steps=1))
    assert run_rank(trunk) == 0
    run = make_run(cache, tmp_path / "heads", ParallelConfig(), {"*": 0.0, "medusa.*": 1.0})
    source = {"init_from": str(tmp_path / "trunk"), "init_new": ("medusa.*",)}
    run = replace(run, train=trunk.train, checkpoint=replace(run.checkpoint, **source))
    assert run_rank(run) == 0
    init.start(ParallelConfig(), seed=0)
    folders = [resolve(tmp_path / name) for name in ("trunk", "heads")]
    names = [tensor_names(folder) for folder in folders]
    shared = [name for name in names[0] if name.startswith("model.") and name in names[1]]
    before, after = (read_tensors(folder, shared) for folder in folders)
    assert len(shared) == len(before) > 10 and all(torch.equal(before[name], after[name]) for name in shared)
    assert any(name.endswith("medusa.weight") for name in names[1])
    wider = replace(run, run_dir=str(tmp_path / "wider"), model=replace(run.model, width=52))
    heads = replace(wider.checkpoint, init_from=str(tmp_path / "heads"), init_new=())
    with pytest.raises(ConfigError, match=r"medusa\.weight"):
        run_rank(replace(wider, checkpoint=heads))
    init.stop()
