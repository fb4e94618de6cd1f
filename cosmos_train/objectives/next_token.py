"""The loss of an autoregressive world model: next-token likelihood and z-loss (arXiv 2501.03575, section 5.2).

Letters: B batch, L tokens that have a label. Where paper and released code differ, NextTokenConfig names the choice.
"""

import math

import torch
from torch import Tensor

from cosmos_train.objectives.config import NextTokenConfig


def sequence(codes_BTHW: Tensor, begin_id: int | None) -> tuple[Tensor, Tensor]:
    """(what the model reads, what it shall say), each [B, L]: codes with time outermost, and the same one further.

    begin_id: of the token that stands before the first code; none has the first code itself there, which then is only
    read. The last code is only said.
    """
    codes_BL = codes_BTHW.flatten(1)
    if begin_id is None:
        return codes_BL[:, :-1], codes_BL[:, 1:]
    begin_B1 = codes_BL.new_full((len(codes_BL), 1), begin_id)
    return torch.cat((begin_B1, codes_BL[:, :-1]), dim=1), codes_BL


def counts(num_labels: int, tokens_per_frame: int, condition_frames: int, device: torch.device) -> Tensor:
    """Which labels the likelihood counts: [L] bool. Given latent frames are left out.

    As in the released code it leaves out H W frames - 1 labels with and without a begin token: with one, the very last
    code of the given frames is learned.
    """
    left_out = max(tokens_per_frame * condition_frames - 1, 0)
    return torch.arange(num_labels, device=device) >= left_out


def by_frame(values_LB: Tensor, tokens_per_frame: int) -> list[Tensor]:
    """What is of each label, by the latent frame that the label is in; without a begin token the first has one less."""
    num_frames = math.ceil(len(values_LB) / tokens_per_frame)
    rest = [tokens_per_frame] * (num_frames - 1)
    return list(values_LB.split([len(values_LB) - sum(rest), *rest]))


def next_token_loss(nll_LB: Tensor, squares_LB: Tensor, counts_L: Tensor, config: NextTokenConfig) -> Tensor:
    """Mean likelihood of what counts, plus z_loss times the mean square of all tokens, given ones too (as released).

    squares_LB: square of what z_loss_of names, for every token.
    """
    return nll_LB[counts_L].mean() + config.z_loss * squares_LB.mean()
