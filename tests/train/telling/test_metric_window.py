"""Means since the last logged step: throughput is told of what the run has."""

from types import SimpleNamespace

import pytest

from cosmos_train.config.load import load_run
from cosmos_train.parallel.step_metrics import Ratio
from cosmos_train.train.telling.metric_window import MetricWindow

RUN = load_run("run/demo_tokenizer", ["train.global_batch_size=8"])


@pytest.mark.parametrize(("num_tokens", "tokens"), [(100, {"tokens_per_sec": 200.0}), (0, {})])
def test_tokens_are_counted_where_there_are_some(num_tokens: int, tokens: dict[str, float]):
    window = MetricWindow()
    window.add({"loss": 2.0}, {}, step_sec=5.0, waited_sec=1.0)
    window.add({"loss": 4.0}, {"psnr": Ratio(6.0, 2.0)}, step_sec=3.0, waited_sec=1.0)
    means = window.means(RUN, SimpleNamespace(num_tokens=num_tokens), None)
    speed = {"step_sec": 4.0, "data_wait_share": 0.25, "samples_per_sec": 2.0}
    assert means == {"loss": 3.0, "psnr": 3.0, **speed, **tokens}
