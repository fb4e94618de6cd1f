"""Means and ratios: how they are averaged, put together, and told."""

import math

import pytest
import torch

from cosmos_train.parallel.step_metrics import Perplexity, Ratio, StepMetrics, put_together, scalars_of, values_of


def test_a_ratio_over_two_batches_weighs_them_by_what_they_have():
    both = Ratio(6.0, 3.0) + Ratio(4.0, 1.0)
    assert both == Ratio(10.0, 4.0) and both.value() == 2.5
    assert isinstance(Perplexity(1.0, 1.0) + Perplexity(2.0, 2.0), Perplexity)


def test_a_perplexity_is_exp_of_the_mean():
    assert Perplexity(3 * math.log(8), 3.0).value() == pytest.approx(8)


def test_what_counted_nothing_is_left_out():
    assert values_of({"error": Ratio(6.0, 4.0), "never": Ratio(0.0, 0.0)}) == {"error": 1.5}


def test_metrics_are_taken_apart_and_put_together():
    metrics = {
        "loss": torch.tensor(2.0),
        "error": Ratio(torch.tensor(6.0), torch.tensor(4.0)),
        "perplexity": Perplexity(torch.tensor(1.0), torch.tensor(3.0)),
    }
    kinds = {name: type(metric) for name, metric in metrics.items()}
    numbers = [scalar.item() for metric in metrics.values() for scalar in scalars_of(metric)]
    found = put_together(kinds, numbers)
    assert found == StepMetrics({"loss": 2.0}, {"error": Ratio(6.0, 4.0), "perplexity": Perplexity(1.0, 3.0)})
    assert isinstance(found.ratios["perplexity"], Perplexity)
    assert found.numbers == {
        "loss": 2.0,
        "error (sum)": 6.0,
        "error (count)": 4.0,
        "perplexity (sum)": 1.0,
        "perplexity (count)": 3.0,
    }
