"""How surprised an autoregressive world model is by videos, against a model that knows no context.

The rival is the unigram: how often each code is in the training windows, one more for each code, so that none is
impossible. Both are judged on the codes behind the given frames, in nats a code, and perplexity is exp of the mean.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from cosmos_data.latents import LatentStore
from cosmos_launch.trained_ar import CodeWorld
from cosmos_train.parallel.vocabulary import token_nll
from cosmos_train.recipes.world_ar import TokenBatch


@torch.no_grad()
def perplexity(world: CodeWorld, codes_NTHW: Tensor, text_NSE: Tensor | None) -> dict[str, float]:
    """{"model": perplexity, "unigram": perplexity} of these videos; without a finished cache there is no unigram.

    One process holds the whole model.
    """
    rivals = {} if world.store is None else {"unigram": unigram_nll(world.store, world.run.model.vocab_size)}
    objective = replace(world.run.objective, condition_frames=world.run.sample.num_condition_frames)
    run, nll = replace(world.run, objective=objective), {"model": list[Tensor](), **{name: [] for name in rivals}}
    for k in range(len(codes_NTHW)):  # one at a time: a window of the 4B has 2 GB of logits
        batch = TokenBatch.of(codes_NTHW[k : k + 1], None if text_NSE is None else text_NSE[k : k + 1], run)
        logits, _ = world.decoder.piece(batch.ids_BL, batch.grid_HW, text_BSE=batch.text_BSE)
        logits_LBV = logits[:, :, 0] if run.model.medusa_heads else logits
        targets_LB, counts_L = batch.targets_BL.T, batch.counts()
        nll_LB, _ = token_nll(logits_LBV, targets_LB, world.mesh.tp)
        nll["model"].append(nll_LB[counts_L].cpu().double())
        for name, nll_V in rivals.items():
            nll[name].append(nll_V[targets_LB[counts_L].cpu()])
    return {name: math.exp(torch.cat(values).mean()) for name, values in nll.items()}


def unigram_nll(store: LatentStore, vocab_size: int) -> Tensor:
    """-ln of each code's share of the training windows: [V] in fp64."""
    times_V = torch.ones(vocab_size, dtype=torch.float64)
    for k in store.indices("train"):
        times_V += torch.bincount(store.window(k).z_CTHW.flatten().long(), minlength=vocab_size)
    return -(times_V / times_V.sum()).log()
