"""Choosing a code: what is left in, that draws follow it, and that they depend on seed and place alone."""

import pytest
import torch

from cosmos_train.generate.choice import choose, draw, probabilities, uniforms
from cosmos_train.generate.config import CodeSampleConfig

LOGITS = torch.tensor([[0.4, 0.1, 0.3, 0.15, 0.05]]).log()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_p": 1.0}, [0.4, 0.1, 0.3, 0.15, 0.05]),
        ({"top_p": 0.71}, [0.4, 0, 0.3, 0.15, 0]),
        ({"top_p": 0.69}, [0.4, 0, 0.3, 0, 0]),
        ({"top_p": 0.01}, [0.4, 0, 0, 0, 0]),
        ({"top_p": 1.0, "top_k": 3}, [0.4, 0, 0.3, 0.15, 0]),
        ({"top_p": 1.0, "top_k": 9}, [0.4, 0.1, 0.3, 0.15, 0.05]),
        ({"top_p": 0.81, "top_k": 3}, [0.4, 0, 0.3, 0, 0]),  # 0.7 / 0.85 of what top_k leaves
        ({"top_p": 1.0, "temperature": 0.5}, [0.16, 0.01, 0.09, 0.0225, 0.0025]),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
    ],
)
def test_what_codes_are_drawn_from(settings: dict[str, float], kept: list[float]):
    wanted = torch.tensor([kept])
    found = probabilities(LOGITS, CodeSampleConfig(**settings))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found, wanted / wanted.sum())


def test_draws_follow_their_chances():
    """A uniform number per draw; none falls on a code that is left out."""
    config = CodeSampleConfig(top_p=0.71)
    numbers = uniforms(range(40), 500).flatten()
    found = choose(LOGITS.expand(len(numbers), -1), numbers, config)
    shares = torch.bincount(found, minlength=5) / len(found)
    torch.testing.assert_close(shares, probabilities(LOGITS, config)[0], atol=0.012, rtol=0)
    assert shares[1] == shares[4] == 0


def test_the_ends_of_the_uniform_numbers():
    chances = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, -1)
    almost_one = 1 - 2.0**-53
    assert draw(chances, torch.tensor([0.0, 0.2499, 0.25, almost_one], dtype=torch.float64)).tolist() == [1, 1, 3, 3]


def test_numbers_are_of_seed_place_and_purpose():
    numbers = uniforms([3, 4, 2**60], 100)
    assert numbers.dtype == torch.float64 and numbers.min() >= 0 and numbers.max() < 1
    assert torch.equal(uniforms([4], 50)[0], numbers[1, :50])
    assert len(torch.cat((numbers, uniforms([3, 4, 2**60], 100, stream="other"))).unique()) == 600


def test_greedy_takes_the_first_of_equals():
    equal = torch.zeros(2, 5)
    assert choose(equal, torch.tensor([0.9, 0.9]), CodeSampleConfig(temperature=0)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("num_condition_frames", -1),
    ],
)
def test_refuses_a_configuration(key: str, value: float):
    with pytest.raises(ValueError, match=rf"^sample\.{key}={value} must"):
        CodeSampleConfig(**{key: value})  # pyright: ignore[reportArgumentType]
