"""What `evaluate world` gives out is finite."""

import math

import pytest

from cosmos_launch.evaluate import _require_finite
from cosmos_tok.config import NotFiniteError


def test_figures_that_are_not_finite_are_no_result():
    facts = {"checkpoint": "step-2", "latent_mse": {"model": 0.3, "repeat_last_frame": 0.0}, "ratio": None}
    _require_finite(facts, "latent_mse")
    _require_finite(facts | {"perplexity": {"model": 4.0}}, "latent_mse")
    for bad in ({"latent_mse": {"model": math.nan}}, {"perplexity": {"model": math.inf}}):
        with pytest.raises(NotFiniteError, match=r"step-2: (latent_mse|perplexity) of model is (nan|inf)"):
            _require_finite(facts | bad, "latent_mse")
