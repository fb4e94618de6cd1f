"""A device's peak by its name, and a step's share of it, in a run's metrics too: none where the peak is not known."""

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
from cosmos_train.train.mfu import PEAKS, Utilization, peak_tflops


@pytest.mark.parametrize(
    ("device_name", "bf16", "fp8", "fp4"),
    [
        # As torch.cuda.get_device_name gives them.
        ("NVIDIA A100-SXM4-80GB", 312, None, None),
        ("NVIDIA A100 80GB PCIe", 312, None, None),
        ("NVIDIA H100 80GB HBM3", 989.4, 1978.9, None),
        ("NVIDIA H100 PCIe", 756, 1513, None),
        ("NVIDIA H100 NVL", 835.5, 1670.5, None),
        ("NVIDIA GH200 480GB", 989.4, 1978.9, None),
        ("NVIDIA H200", 989.4, 1978.9, None),
        ("NVIDIA H200 NVL", 835.5, 1670.5, None),
        ("NVIDIA B200", 2250, 4500, 9000),
        ("NVIDIA GB200", 2500, 5000, 10000),
        ("NVIDIA B300 SXM6 AC", 2250, 4500, 13500),
        ("NVIDIA GB300", 2500, 5000, 15000),
        ("NVIDIA L4", 121, 242.5, None),
        ("NVIDIA L40", 181.05, 362, None),
        ("NVIDIA L40S", 362.05, 733, None),
        ("NVIDIA RTX 6000 Ada Generation", 364.2, 728.5, None),
        # Names that look like one of them.
        ("NVIDIA RTX A6000", None, None, None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None, None, None),
        ("NVIDIA H100 96GB HBM2e", None, None, None),
        ("cpu", None, None, None),
    ],
)
def test_peak_by_name(device_name: str, bf16: float | None, fp8: float | None, fp4: float | None):
    formats = ("bf16", "fp8", "fp4")
    assert tuple(peak_tflops(device_name, number_format) for number_format in formats) == (bf16, fp8, fp4)


def test_peaks_are_dense():
    """Each halving of the format doubles the peak at most; a sparse figure among dense ones would stand out."""
    for name, peak in PEAKS.items():
        if peak.fp8 is not None:
            assert peak.fp8 / peak.bf16 == pytest.approx(2, rel=0.02), name
        if peak.fp4 is not None:
            assert peak.fp8 is not None and 2 <= peak.fp4 / peak.fp8 <= 3, name


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
    with pytest.raises(ValueError, match=r"train\.peak_tflops=0 must be greater than 0; leave it out"):
        TrainConfig(num_steps=1, global_batch_size=1, micro_batch_size=1, peak_tflops=0)
