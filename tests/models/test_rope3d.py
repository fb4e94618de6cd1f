"""Rotary positions over time, rows and columns, against cases worked out by hand and what rotations promise."""

import math

import pytest
import torch
from torch import Tensor

from cosmos_train.models.common.rope3d import apply_rope, axis_widths, inverse_frequencies, rope_angles

GRID = (4, 3, 5)
HEAD_DIM = 28  # 12 for time, 8 for rows, 8 for columns


def angles(*grid: int, fps: tuple[float, ...] = (24.0,), scales: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Tensor:
    t, h, w = scales
    return rope_angles(*grid, head_dim=HEAD_DIM, scales_thw=(t, h, w), fps_B=fps, base_fps=24.0)


@pytest.mark.parametrize(
    ("head_dim", "widths"), [(128, (44, 42, 42)), (64, (24, 20, 20)), (28, (12, 8, 8)), (12, (4, 4, 4))]
)
def test_widths_of_the_axes(head_dim: int, widths: tuple[int, int, int]):
    assert axis_widths(head_dim) == widths and sum(widths) == head_dim


def test_frequencies():
    torch.testing.assert_close(inverse_frequencies(4, 1.0), torch.tensor([1.0, 0.01]))  # 10000^0, 10000^(-1/2)
    torch.testing.assert_close(inverse_frequencies(4, 2.0), torch.tensor([1.0, 0.005]))  # theta = 10000 * 2^(4/2)


def test_ntk_stretches_the_slowest_frequency_by_the_ratio():
    plain, stretched = (inverse_frequencies(44, scale) for scale in (1.0, 2.0))
    assert plain[0] == stretched[0] == 1
    assert (plain[-1] / stretched[-1]).item() == pytest.approx(2.0, rel=1e-5)


def test_order_of_tokens_and_axes():
    found = angles(*GRID, fps=(12.0,), scales=(2.0, 1.0, 3.0))
    assert found.shape == (60, 1, 1, 14) and found.dtype == torch.float32
    token = (3 * 3 + 2) * 5 + 4  # t = 3, h = 2, w = 4; at 12 frames per second neighbours are 2 apart
    parts = [3 * 2 * inverse_frequencies(12, 2.0), 2 * inverse_frequencies(8, 1.0), 4 * inverse_frequencies(8, 3.0)]
    torch.testing.assert_close(found[token, 0, 0], torch.cat(parts))


def test_frame_rates_that_differ_get_rows_of_their_own():
    together = angles(*GRID, fps=(24.0, 12.0))
    assert together.shape == (60, 2, 1, 14)
    torch.testing.assert_close(together[:, 1:], angles(*GRID, fps=(12.0,)))
    assert angles(*GRID, fps=(12.0, 12.0)).shape == (60, 1, 1, 14), "one row serves all where they agree"


def test_an_image_has_no_frame_rate():
    assert torch.equal(angles(1, 3, 5, fps=(24.0,)), angles(1, 3, 5, fps=(5.0,)))
    assert not angles(1, 3, 5)[..., :6].any()


def test_pairs_are_half_a_head_apart():
    turn = torch.tensor([math.pi / 2, 0.0]).view(1, 1, 1, 2)
    turned = apply_rope(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4), turn.cos(), turn.sin())
    torch.testing.assert_close(turned.flatten(), torch.tensor([-3.0, 2.0, 1.0, 4.0]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_attention_sees_differences_of_positions_only(axis: int):
    query, key = torch.randn(2, 1, 1, 1, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    turn = angles(*GRID, fps=(30.0,))
    queries, keys = (apply_rope(x, turn.cos(), turn.sin()).squeeze() for x in (query, key))
    torch.testing.assert_close(queries.norm(dim=-1), query.norm().expand(60))
    scores = (queries @ keys.T).view(*GRID, *GRID)
    # Both tokens one further along the axis: the same score.
    last = GRID[axis] - 1
    here = scores.narrow(axis, 0, last).narrow(3 + axis, 0, last)
    further = scores.narrow(axis, 1, last).narrow(3 + axis, 1, last)
    torch.testing.assert_close(here, further, atol=1e-5, rtol=1e-5)
    # Only one of them further: another.
    assert (scores.narrow(axis, 0, last) - scores.narrow(axis, 1, last)).abs().amax() > 0.1
