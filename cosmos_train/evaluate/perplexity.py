"""How surprised an autoregressive world model is by videos, against a model that knows no context.

The rival is the unigram: how often each code is in windows of the training clips, one more for each code, so that none
is impossible. Both are judged on the codes behind the given frames, in nats a code, and perplexity is exp of the mean.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from cosmos_data.decoders.decode import choose_decoder
from cosmos_data.manifests.manifest import Manifest
from cosmos_train.config.schema import WorldARRun
from cosmos_train.evaluate.held_out import regular_windows
from cosmos_train.parallel.vocabulary import token_nll
from cosmos_train.recipes.world_ar import TokenBatch
from cosmos_train.worlds.autoregressive import AutoregressiveWorld

UNIGRAM_WINDOWS = 64
"""Of the training clips, at most."""


@torch.no_grad()
def perplexity(world: AutoregressiveWorld, codes_NTHW: Tensor, text_NSE: Tensor | None) -> dict[str, float]:
    """{"model": perplexity, "unigram": perplexity} of these videos. One process holds the whole model."""
    run = world.require_trained().run
    assert isinstance(run, WorldARRun), "its world is an autoregressive one"
    objective = replace(run.objective, condition_frames=world.sampling.num_condition_frames)
    run, unigram_V = replace(run, objective=objective), unigram_nll(training_codes(world), world.config.vocab_size)
    nll: dict[str, list[Tensor]] = {"model": [], "unigram": []}
    for k in range(len(codes_NTHW)):  # one at a time: a window of the 4B has 2 GB of logits
        batch = TokenBatch.of(codes_NTHW[k : k + 1], None if text_NSE is None else text_NSE[k : k + 1], run)
        logits, _ = world.decoder.piece(batch.ids_BL, batch.grid_HW, text_BSE=batch.text_BSE)
        logits_LBV = logits[:, :, 0] if run.model.medusa_heads else logits
        targets_LB, counts_L = batch.targets_BL.T, batch.counts()
        nll_LB, _ = token_nll(logits_LBV, targets_LB, world.mesh.tp)
        nll["model"].append(nll_LB[counts_L].cpu().double())
        nll["unigram"].append(unigram_V[targets_LB[counts_L].cpu()])
    return {name: math.exp(torch.cat(values).mean()) for name, values in nll.items()}


def training_codes(world: AutoregressiveWorld) -> Iterator[Tensor]:
    """Codes [1, T, H, W] of some windows of the training clips, evenly spread."""
    windows = regular_windows(world.require_trained(), "train", UNIGRAM_WINDOWS)
    clips = {window.sample.clip.clip_id: window.sample.clip for window in windows}
    decoder = choose_decoder(world.require_trained().run.data, [Manifest(clips.values())])
    for window in windows:
        yield world.encode(decoder.decode([window.sample])).cpu()


def unigram_nll(codes: Iterable[Tensor], vocab_size: int) -> Tensor:
    """-ln of each code's share of all these: [V] in fp64."""
    times_V = torch.ones(vocab_size, dtype=torch.float64)
    for some in codes:
        times_V += torch.bincount(some.flatten(), minlength=vocab_size)
    return -(times_V / times_V.sum()).log()
