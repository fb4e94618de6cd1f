"""Finite scalar quantisation: hand-computed codes and indices, the round trip, the gradient."""

import math

import pytest
import torch

from cosmos_tok import fsq

LEVELS = (8, 8, 8, 5, 5, 5)


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)


def test_codes_and_index_of_a_case_computed_by_hand() -> None:
    # The integers that z rounds to are 0, 3, -4 (of -4 .. 3) and 0, 2, -2 (of -2 .. 2).
    codes = fsq.quantize(column([0.0, 9.0, -9.0, 0.0, 9.0, -9.0]), LEVELS)
    assert codes.flatten().tolist() == [0.0, 0.75, -1.0, 0.0, 1.0, -1.0]
    # Counted from zero they are 4, 7, 0, 2, 4, 0, with the basis 1, 8, 64, 512, 2560, 12800.
    assert fsq.codes_to_indices(codes, LEVELS).tolist() == [[[[4 + 7 * 8 + 0 + 2 * 512 + 4 * 2560 + 0]]]]


def test_bound_follows_the_formula() -> None:
    z = torch.linspace(-3, 3, 13)
    expected = [math.tanh(v + math.atanh(0.5 / 3.5035)) * 3.5035 - 0.5 for v in z.tolist()]
    bounded = fsq.bound(z.view(1, 1, 13, 1, 1), (8,)).flatten()
    torch.testing.assert_close(bounded, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [LEVELS, (2, 3, 4)])
def test_every_index_comes_back(levels: tuple[int, ...]) -> None:
    indices = torch.arange(math.prod(levels)).view(1, 1, 1, -1)
    codes = fsq.indices_to_codes(indices, levels)
    assert torch.equal(fsq.codes_to_indices(codes, levels), indices)
    assert torch.equal(fsq.codes_to_indices(codes.bfloat16(), levels), indices)
    assert codes.abs().max() <= 1
    assert [len(codes[:, c].unique()) for c in range(len(levels))] == list(levels)


def test_codes_lie_exactly_on_the_grid() -> None:
    z = torch.randn(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    codes = fsq.quantize(z.requires_grad_(), LEVELS)
    assert torch.equal(fsq.indices_to_codes(fsq.codes_to_indices(codes, LEVELS), LEVELS), codes)


def test_the_gradient_passes_straight_through() -> None:
    z = torch.randn(1, 6, 2, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (through,) = torch.autograd.grad(fsq.quantize(z, LEVELS).sum(), z)
    half = column([4.0, 4.0, 4.0, 2.0, 2.0, 2.0])
    (bounded,) = torch.autograd.grad((fsq.bound(z, LEVELS) / half).sum(), z)
    torch.testing.assert_close(through, bounded)
    assert through.abs().min() > 0


def test_bfloat16_in_bfloat16_out_with_float32_arithmetic() -> None:
    z = torch.randn(1, 6, 2, 8, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert torch.equal(fsq.quantize(z, LEVELS), fsq.quantize(z.float(), LEVELS).bfloat16())
    assert fsq.quantize(z, LEVELS).dtype == torch.bfloat16
