"""From logits to the next code: greedy, or drawn at a temperature among the most likely ones.

A draw is a function of (seed of the video, place of the code in it), whatever the batch and the layout. The code is
where the running sum of the probabilities, in the order of the ids, first exceeds a uniform number: so what rounding
differs by between two layouts changes the code only where the number is as close to a boundary as that.

Letters: B videos, L codes of a video, V codes of the tokenizer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cosmos_data.sample_plan.order import philox_key, philox_words
from cosmos_train.generate.config import CodeSampleConfig


def uniforms(seed_B: Sequence[int], num_tokens: int, *, stream: str = "code") -> Tensor:
    """[B, L] in fp64, each in [0, 1): one number for each place of each video.

    stream: keeps what is drawn for different purposes apart.
    """
    words = [philox_words(philox_key(stream, seed), 0, 0, 0, count=num_tokens) for seed in seed_B]
    return torch.from_numpy((np.stack(words) >> np.uint64(11)).astype(np.float64)) * 2.0**-53


def probabilities(logits_BV: Tensor, config: CodeSampleConfig) -> Tensor:
    """What codes are drawn from: [B, V] in fp32, the sum of each row 1. All of it on the best code where greedy.

    Of equally likely codes at the edge of top_k all stay.
    """
    if config.temperature == 0:
        return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).float()
    logits_BV = logits_BV.float() / config.temperature
    if 0 < config.top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(config.top_k).values[:, -1:]
        logits_BV = logits_BV.where(logits_BV >= least_B1, -torch.inf)
    chances_BV = logits_BV.softmax(-1)
    if config.top_p == 1:
        return chances_BV
    ordered_BV, ids_BV = chances_BV.sort(dim=-1, descending=True, stable=True)
    is_left_out_BV = ordered_BV.cumsum(-1) - ordered_BV >= config.top_p  # those before it are enough
    is_left_out_BV[:, 0] = False
    kept_BV = torch.empty_like(chances_BV).scatter_(-1, ids_BV, ordered_BV.masked_fill(is_left_out_BV, 0.0))
    return kept_BV / kept_BV.sum(-1, keepdim=True)


def draw(chances_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Ids [B] of codes whose chance is above 0."""
    sums_BV = chances_BV.double().cumsum(-1)
    return torch.searchsorted(sums_BV, uniform_B[:, None] * sums_BV[:, -1:], right=True)[:, 0]


def choose(logits_BV: Tensor, uniform_B: Tensor, config: CodeSampleConfig) -> Tensor:
    """Ids [B] of the next codes."""
    if config.temperature == 0:
        return logits_BV.argmax(-1)
    return draw(probabilities(logits_BV, config), uniform_B)
