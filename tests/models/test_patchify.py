"""Patches in and out, against cases worked out by hand: the two orders inside a patch differ."""

from itertools import product

import torch

from cosmos_train.models.common.patchify import patchify, unpatchify


def test_patch_goes_in_channel_first():
    x = torch.arange(2 * 4 * 4).reshape(1, 2, 1, 4, 4)
    tokens = patchify(x, 2)
    assert tokens.shape == (4, 1, 8)
    assert tokens[1, 0].tolist() == [2, 3, 6, 7, 18, 19, 22, 23], (
        "the second patch: channel 0's cells, then channel 1's"
    )


def test_patch_comes_out_channel_last():
    tokens = torch.zeros(4, 1, 8)
    tokens[1, 0] = torch.arange(8)
    x = unpatchify(tokens, 2, (1, 2, 2))
    assert x.shape == (1, 2, 1, 4, 4)
    assert x[0, 0, 0, :2, 2:].tolist() == [[0, 2], [4, 6]]
    assert x[0, 1, 0, :2, 2:].tolist() == [[1, 3], [5, 7]]


def test_tokens_run_over_time_then_rows_then_columns():
    t, h, w = torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(6), indexing="ij")
    cells = (100 * t + 10 * (h // 2) + w // 2)[None, None]
    wanted = [100 * t + 10 * h + w for t, h, w in product(range(3), range(2), range(3))]
    assert patchify(cells, 2)[:, 0, 0].tolist() == wanted


def test_back_where_they_came_from():
    """With one channel the two orders agree."""
    x = torch.randn(2, 1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatchify(patchify(x, 2), 2, (3, 2, 3)), x)
