"""A step's share of the device's peak, in a run's metrics too: none where the peak is not known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_train.models.dit.flops import dit_cost
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.config import TrainConfig
from cosmos_train.train.telling.mfu import Utilization


def test_utilization():
    """The 7B at 720p, a sample on each of 8 H100 in 20 s: 6.63e15 / 20 / 989.4e12."""
    reached = Utilization(step_tflop=8 * 6630, num_ranks=8, peak_tflops=989.4).metrics(step_sec=20.0)
    assert reached == {"tflops_per_gpu": pytest.approx(331.5), "mfu": pytest.approx(0.335, abs=1e-3)}


def test_without_a_peak_there_is_no_utilization():
    assert Utilization(step_tflop=10, num_ranks=2, peak_tflops=None).metrics(step_sec=1.0) == {"tflops_per_gpu": 5}


def logged(pool: RankPool, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """The steps of a run's metrics.jsonl."""
    cache = tiny_world.write_cache(folder / "cache")
    pool.run(training.run_loop, cache, folder / "run", ParallelConfig(), {"num_steps": 2} | settings)
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]


def test_a_run_on_a_cpu_logs_its_flops_and_no_utilization(ranks: Callable[[int], RankPool], tmp_path: Path):
    steps = logged(ranks(2), tmp_path)
    latent_THW = tiny_world.SHAPE_CTHW[1:]
    step_flops = dit_cost(tiny_world.MODEL, batch=4, latent_THW=latent_THW, text_tokens=32).training.total
    assert len(steps) == 2
    for step in steps:
        assert step["tflops_per_gpu"] * step["step_sec"] * 2 * 1e12 == pytest.approx(step_flops, rel=1e-6)
        assert "mfu" not in step


def test_a_configured_peak_is_what_utilization_is_measured_by(ranks: Callable[[int], RankPool], tmp_path: Path):
    for step in logged(ranks(2), tmp_path, peak_tflops=0.5):
        assert step["mfu"] == pytest.approx(step["tflops_per_gpu"] / 0.5)


def test_a_peak_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"train\.peak_tflops=0 must be greater than 0"):
        TrainConfig(num_steps=1, global_batch_size=1, micro_batch_size=1, peak_tflops=0)
