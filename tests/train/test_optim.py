"""The learning rate as a function of the step: warm-up, each decay, and both ends of them."""

import math
from typing import Literal

import pytest

from cosmos_train.train.config import OptimConfig
from cosmos_train.train.optim import learning_rate

NUM_STEPS = 20
Decay = Literal["constant", "linear", "cosine"]
DECAYS: tuple[Decay, ...] = ("constant", "linear", "cosine")


def rates(decay: Decay, *, warmup_steps: int = 4, min_lr: float = 0.1, lr: float = 0.9) -> list[float]:
    """Of steps 1 to NUM_STEPS."""
    optim = OptimConfig(lr=lr, warmup_steps=warmup_steps, decay=decay, min_lr=min_lr)
    return [learning_rate(step, optim, NUM_STEPS) for step in range(1, NUM_STEPS + 1)]


@pytest.mark.parametrize("decay", DECAYS)
def test_warm_up_is_a_straight_line_to_the_top(decay: Decay):
    assert rates(decay)[:4] == pytest.approx([0.225, 0.45, 0.675, 0.9])


def test_constant_stays():
    assert set(rates("constant")[3:]) == {0.9}


def test_linear_falls_evenly_to_its_end():
    course = rates("linear")[3:]
    assert course == pytest.approx([0.9 - 0.05 * step for step in range(17)])
    assert course[-1] == pytest.approx(0.1)


def test_cosine_is_half_a_wave():
    course = rates("cosine")[3:]
    assert course == pytest.approx([0.5 + 0.4 * math.cos(math.pi * step / 16) for step in range(17)])
    assert course[8] == pytest.approx(0.5) and course[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("decay", DECAYS)
def test_without_warm_up_the_first_step_is_one_step_into_the_decay(decay: Decay):
    course = rates(decay, warmup_steps=0, min_lr=0.0)
    assert len(course) == NUM_STEPS and 0.8 < course[0] <= 0.9
    assert course[-1] == (0.9 if decay == "constant" else pytest.approx(0.0))


@pytest.mark.parametrize("decay", DECAYS)
def test_a_run_that_is_all_warm_up_ends_at_the_top(decay: Decay):
    assert rates(decay, warmup_steps=NUM_STEPS)[-1] == pytest.approx(0.9)


@pytest.mark.parametrize(("key", "value"), [("lr", 0.0), ("lr", -1.0), ("ema_decay", 1.0), ("warmup_steps", -1)])
def test_bad_values_are_named(key: str, value: float):
    with pytest.raises(ValueError, match=rf"^optim\.{key}={value} must "):
        OptimConfig(**{"lr": 1.0, key: value})
