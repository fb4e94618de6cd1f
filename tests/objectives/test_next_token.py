"""What an autoregressive model reads and says, which of it counts, and the loss."""

import pytest
import torch

from cosmos_train.objectives.config import NextTokenConfig
from cosmos_train.objectives.next_token import by_frame, counts, next_token_loss, sequence

CODES_BTHW = torch.arange(12).reshape(1, 3, 2, 2)


def test_without_a_begin_token_the_first_code_is_only_read():
    ids, targets = sequence(CODES_BTHW, None)
    assert ids.tolist() == [list(range(11))] and targets.tolist() == [list(range(1, 12))]


def test_with_a_begin_token_every_code_is_said():
    ids, targets = sequence(CODES_BTHW, 64)
    assert ids.tolist() == [[64, *range(11)]] and targets.tolist() == [list(range(12))]


@pytest.mark.parametrize(
    ("begin_id", "frames", "first_that_counts"),
    # As the released code counts: one less than the given codes is left out, with and without a begin token.
    [(None, 1, 4), (None, 2, 8), (64, 1, 3), (64, 2, 7), (None, 0, 1), (64, 0, 0)],
)
def test_given_frames_do_not_count(begin_id: int | None, frames: int, first_that_counts: int):
    _, targets = sequence(CODES_BTHW, begin_id)
    mask = counts(targets.shape[1], 4, frames, torch.device("cpu"))
    assert targets[0, mask].tolist() == list(range(first_that_counts, 12))


@pytest.mark.parametrize("begin_id", [None, 64])
def test_labels_of_a_frame(begin_id: int | None):
    _, targets = sequence(CODES_BTHW, begin_id)
    first = list(range(4)) if begin_id else [1, 2, 3]
    assert [part.flatten().tolist() for part in by_frame(targets.T, 4)] == [first, [4, 5, 6, 7], [8, 9, 10, 11]]


def test_given_tokens_are_part_of_the_z_loss_only():
    nll, squares = torch.tensor([[7.0], [1.0], [3.0]]), torch.tensor([[30.0], [0.0], [0.0]])
    mask = torch.tensor([False, True, True])
    assert next_token_loss(nll, squares, mask, NextTokenConfig(z_loss=0.5)).item() == 2 + 0.5 * 10
    assert next_token_loss(nll, squares, mask, NextTokenConfig(z_loss=0.0)).item() == 2


def test_refused():
    with pytest.raises(ValueError, match=r"objective\.condition_frames=-1 must be at least 0"):
        NextTokenConfig(condition_frames=-1)
