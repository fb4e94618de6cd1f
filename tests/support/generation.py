"""Videos of codes from the tiny autoregressive model in any layout, and what tests ask of it on every rank."""

from dataclasses import replace
from typing import Any

import torch
from support import tiny_ar
from torch import Tensor, nn

from cosmos_train.generate.codes import CodeScene, generate_codes
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder
from cosmos_train.generate.medusa import generate_guessed_codes
from cosmos_train.generate.network import videos_of_rank
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.vocabulary import whole_vocabulary

GRID_THW = (3, 2, 3)
SEEDS = [5, 9, 2**40, 0]
BASE = replace(tiny_ar.MODEL, begin_token=False, cross_attention=False, absolute_positions=False)
MODELS = {"video2world": tiny_ar.MODEL, "base": BASE}


def make_decoder(model: WorldARConfig, parallel: ParallelConfig) -> Decoder:
    """The tiny model with weights so large that what it says depends on what it has read."""
    mesh = init.start(parallel, seed=0)
    pieces, engine_config = build_world_ar(model, parallel, mesh, dtype=torch.float32, seed=1)
    with torch.no_grad():
        for piece in pieces:
            for name, param in piece.named_parameters():
                if name.startswith("blocks.") and not name.endswith("norm.weight"):
                    param.mul_(10)
                elif name == "medusa.weight":
                    param.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    return Decoder(pieces, engine_config, mesh)


def scene(model: WorldARConfig, seeds: list[int], **fields: Any) -> CodeScene:
    """The first frame, and where the model reads it one text, for all seeds."""
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(model.vocab_size, (1, 2, *GRID_THW[1:]), generator=generator)
    text = torch.randn(1, 5, model.text_width, generator=generator) if model.cross_attention else None
    return CodeScene(**{"grid_THW": GRID_THW, "seed_B": seeds, "given_BTHW": given, "text_BSE": text} | fields)


def generated(kind: str, parallel: ParallelConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """This rank's seeds and their videos, with the cache and, of greedy ones, without."""
    model, config = MODELS[kind], CodeSampleConfig(**settings)
    decoder = make_decoder(model, parallel)
    mine = videos_of_rank(len(SEEDS), decoder.mesh)
    what = scene(model, SEEDS[mine.start : mine.stop])
    found: dict[str, Any] = {"seeds": list(what.seed_B)}
    found["codes"] = generate_codes(decoder, what, config, device=decoder.mesh.device)
    if config.temperature == 0:
        found["without_cache"] = without_cache(decoder, what, config)
    return found


def guessed(kind: str, parallel: ParallelConfig, settings: dict[str, Any], seeds: list[int]) -> Tensor:
    """Videos with the guesses of three heads."""
    decoder = make_decoder(replace(MODELS[kind], medusa_heads=3), parallel)
    what = scene(decoder.config, seeds)
    return generate_guessed_codes(decoder, what, CodeSampleConfig(**settings), num_heads=3, device=decoder.mesh.device)


def without_cache(decoder: Decoder, what: CodeScene, config: CodeSampleConfig) -> Tensor:
    """The same video, greedily, one row for all seeds: everything so far is read again for every code."""
    assert what.given_BTHW is not None
    model, mesh, begin = decoder.config, decoder.mesh, int(decoder.config.begin_token)
    ids_BL = what.given_BTHW[:, : config.num_condition_frames].flatten(1)
    if model.begin_token:
        ids_BL = torch.cat((torch.full((1, 1), model.vocab_size), ids_BL), dim=1)

    def run(piece: nn.Module, ids_BL: Tensor, hidden_LBD: Tensor | None) -> Tensor:
        result = piece(ids_BL, what.grid_THW[1:], text_BSE=what.text_BSE, hidden_LBD=hidden_LBD)
        return result if isinstance(result, Tensor) else whole_vocabulary(result[0][-1], mesh.tp).argmax(-1)

    with torch.no_grad():
        while ids_BL.shape[1] < what.num_codes + begin:
            if decoder.pipeline is None:
                next_B = run(decoder.piece, ids_BL, None)
            else:
                [next_B] = decoder.pipeline(run, [ids_BL], [torch.empty(1, dtype=torch.int64)])
            ids_BL = torch.cat((ids_BL, next_B[:, None]), dim=1)
    return ids_BL[:, begin:].unflatten(1, what.grid_THW)
