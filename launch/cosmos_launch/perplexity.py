"""How surprised an autoregressive world model is by held-out windows, against a model that knows no context.

The rival is the unigram: how often each code is in the training windows, one more for each code, so that none is
impossible. Both are judged on the codes behind the given frames, in nats a code, and perplexity is exp of the mean.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cosmos_launch.trained_ar import CodeWorld
from cosmos_train.objectives.next_token import counts, sequence
from cosmos_train.parallel.vocabulary import token_nll
from cosmos_train.recipes.world_batches import pad_text


@torch.no_grad()
def perplexity(world: CodeWorld, chosen: Sequence[int]) -> dict[str, float]:
    """{"model": perplexity, "unigram": perplexity} on these windows of the cache. One process holds the whole model."""
    piece, unigram_V = world.decoder.piece, unigram_nll(world).to(world.device)
    model, config = world.run.model, world.run.objective
    config = replace(config, condition_frames=world.run.sample.num_condition_frames)
    _, _, height, width = world.store.latent_shape
    totals, number = {"model": 0.0, "unigram": 0.0}, 0
    for k in chosen:  # one at a time: a window of the 4B has 2 GB of logits
        window = world.store.window(k)
        codes_BTHW = window["z_CTHW"].to(world.device, torch.int64)
        ids_BL, targets_BL = sequence(codes_BTHW, model.vocab_size if model.begin_token else None)
        text_BSE = None
        if model.cross_attention:
            text_BSE = pad_text(window["text_SE"], world.run.text.max_tokens)[None].to(world.device)
        logits, _ = piece(ids_BL, (height, width), text_BSE=text_BSE)
        logits_LBV = logits[:, :, 0] if model.medusa_heads else logits
        nll_LB, _ = token_nll(logits_LBV, targets_BL.T, world.mesh.tp)
        counts_L = counts(len(nll_LB), height * width, config, world.device)
        totals["model"] += nll_LB[counts_L].sum().item()
        totals["unigram"] += unigram_V[targets_BL.T[counts_L]].sum().item()
        number += nll_LB[counts_L].numel()
    return {name: math.exp(total / number) for name, total in totals.items()}


def unigram_nll(world: CodeWorld) -> Tensor:
    """-ln of each code's share of the training windows: [V] in fp64."""
    times_V = torch.ones(world.run.model.vocab_size, dtype=torch.float64)
    for k in world.store.indices("train"):
        times_V += torch.bincount(world.store.window(k)["z_CTHW"].flatten().long(), minlength=len(times_V))
    return -(times_V / times_V.sum()).log()
