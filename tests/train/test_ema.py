"""The moving average against its closed form, and that it is a thing apart from the weights."""

import pytest
import torch
from torch import nn

from cosmos_train.train.ema import Ema


def courses(num_steps: int) -> tuple[nn.ParameterDict, list[dict[str, torch.Tensor]]]:
    """Parameters, and the values they take one after another."""
    generator = torch.Generator().manual_seed(3)
    params = nn.ParameterDict({"a": torch.randn(3, 2, generator=generator), "b": torch.randn(4, generator=generator)})
    later = [{n: torch.randn(p.shape, generator=generator) for n, p in params.items()} for _ in range(num_steps)]
    return params, later


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.98])
def test_closed_form(decay: float):
    params, later = courses(12)
    start = {name: p.detach().clone() for name, p in params.items()}
    ema = Ema([params], decay)
    for values in later:
        with torch.no_grad():
            for name, param in params.items():
                param.copy_(values[name])
        ema.update()
    for name in params:
        weighted = [(1 - decay) * decay ** (11 - k) * values[name] for k, values in enumerate(later)]
        expected = decay**12 * start[name] + torch.stack(weighted).sum(0)
        torch.testing.assert_close(ema.average[name], expected)


def test_it_starts_as_a_copy():
    params, _ = courses(0)
    ema = Ema([params], 0.9)
    with torch.no_grad():
        params["a"].zero_()
    assert (ema.average["a"] != 0).all()
    assert not any(average.requires_grad for average in ema.average.values())


def test_it_is_fp32_whatever_the_weights_are():
    """A step of 2^-10 of what bf16 resolves is lost in bf16, and kept here."""
    param = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    ema = Ema([nn.ParameterDict({"w": param})], 1 - 2**-10)
    with torch.no_grad():
        param.fill_(1 + 2**-7)
    ema.update()
    assert ema.average["w"].dtype == torch.float32
    assert ema.average["w"].item() == pytest.approx(1 + 2**-17, abs=2**-22)


def test_weights_can_be_replaced_by_their_average():
    params, later = courses(1)
    ema = Ema([params], 0.5)
    with torch.no_grad():
        params["a"].copy_(later[0]["a"])
    ema.update()
    ema.copy_to_params()
    for name, param in params.items():
        assert torch.equal(param, ema.average[name]) and param.requires_grad
