"""The loss over a vocabulary whose logits are divided over tensor-parallel ranks, where nobody ever holds a whole row;
and whole rows of a few tokens, to choose the next ones by."""

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from torch import Tensor


def token_nll(logits_LBV: Tensor, targets_LB: Tensor, tp: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """(-ln p(target), ln sum exp of all logits), each [L, B] in fp32 and the same on every tensor-parallel rank.

    Args:
        logits_LBV: this rank's part of the vocabulary: rank r of n has ids r V .. (r + 1) V - 1 of n V.
        targets_LB: ids in the whole vocabulary.
    """
    logits_LBV = logits_LBV.float()
    largest_LB = logits_LBV.detach().amax(-1)
    dist.all_reduce(largest_LB, op=dist.ReduceOp.MAX, group=tp)
    shifted_LBV = logits_LBV - largest_LB[..., None]
    sum_LB = reduce_from_tensor_model_parallel_region(shifted_LBV.exp().sum(-1), group=tp)
    own_LB = targets_LB - tp.rank() * logits_LBV.shape[-1]
    is_here_LB = (own_LB >= 0) & (own_LB < logits_LBV.shape[-1])
    chosen_LB = shifted_LBV.gather(-1, own_LB.where(is_here_LB, 0)[..., None])[..., 0]
    target_LB = reduce_from_tensor_model_parallel_region(chosen_LB * is_here_LB, group=tp)
    return sum_LB.log() - target_LB, sum_LB.log() + largest_LB


def mean_square(logits_LBV: Tensor, tp: dist.ProcessGroup) -> Tensor:
    """Of all of a token's logits, [L, B] in fp32 and the same on every tensor-parallel rank."""
    sum_LB = reduce_from_tensor_model_parallel_region(logits_LBV.float().square().sum(-1), group=tp)
    return sum_LB / (logits_LBV.shape[-1] * tp.size())


def is_most_likely(logits_LBV: Tensor, targets_LB: Tensor, tp: dist.ProcessGroup) -> Tensor:
    """Whether the largest logit of the whole vocabulary is the target's: [L, B], the same on every rank.

    Args: as for token_nll. Without gradients.
    """
    with torch.no_grad():
        best_LB, index_LB = logits_LBV.float().max(-1)
        largest_LB = best_LB.clone()
        dist.all_reduce(largest_LB, op=dist.ReduceOp.MAX, group=tp)
        own_LB = targets_LB - tp.rank() * logits_LBV.shape[-1]
        is_it_LB = ((best_LB == largest_LB) & (index_LB == own_LB)).int()
        dist.all_reduce(is_it_LB, op=dist.ReduceOp.MAX, group=tp)
        return is_it_LB.bool()


def whole_vocabulary(logits_BV: Tensor, tp: dist.ProcessGroup) -> Tensor:
    """All logits of some tokens, from every tensor-parallel rank's part: [B, V], the same on all. Without gradients."""
    if tp.size() == 1:
        return logits_BV
    parts = [torch.empty_like(logits_BV) for _ in range(tp.size())]
    dist.all_gather(parts, logits_BV.contiguous(), group=tp)
    return torch.cat(parts, dim=-1)
