"""What Medusa heads learn: the codes further on, each head's likelihood counting less than the one's before it.

Letters: B batch, L tokens that have a label, M heads.
"""

import torch
from torch import Tensor


def further_targets(targets_BL: Tensor, num_heads: int) -> Tensor:
    """[B, L, 1 + M]: the next code, and those that the heads guess; 0 where the video has ended before."""
    padded = torch.nn.functional.pad(targets_BL, (0, num_heads))
    return padded.unfold(1, num_heads + 1, 1)


def medusa_loss(nll_LBH: Tensor, counts_L: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """(sum over i of decay^i times the mean likelihood of head i, those means [1 + M]); the model's own is the first.

    nll_LBH: -ln p of further_targets, transposed. What they have no code for is left out here.
    counts_L: which labels count (cosmos_train.objectives.next_token.counts); a head's counts where the next code does.
    """
    num_labels, _, num_heads = nll_LBH.shape
    place_L, head_H = (torch.arange(n, device=nll_LBH.device) for n in (num_labels, num_heads))
    there_LH = counts_L[:, None] & (place_L[:, None] + head_H < num_labels)
    means_H = (nll_LBH.mean(1) * there_LH).sum(0) / there_LH.sum(0).clamp(min=1)
    return (means_H * decay**head_H).sum(), means_H
