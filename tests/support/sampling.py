"""A scene sampled with the tiny world model in any layout, and what tests ask of it on every rank."""

from typing import Any

import torch
from support.tiny_world import MODEL, SHAPE_CTHW
from torch import Tensor

from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.digest import weights_digest
from cosmos_train.generate.network import in_turn, on_halves, pipelined, videos_of_rank
from cosmos_train.generate.world import Scene, sample_scene
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig

SEEDS = [5, 9]
SETTINGS: dict[str, Any] = {"num_steps": 6, "guidance": 7.0}


def sampled(parallel: ParallelConfig, settings: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """Latents of this rank's seeds, which seeds these are, and the digest of the weights."""
    mesh = init.start(parallel, seed=0)
    pieces, engine_config = build_world_model(MODEL, parallel, mesh, dtype=torch.float32, seed=0)
    networks = [piece.net for piece in pieces]
    for network in networks:
        for name, param in network.named_parameters():
            if name.endswith("modulation.up.weight"):  # zero at first, which would leave the blocks out
                generator = torch.Generator().manual_seed(len(name))
                param.data.copy_(torch.randn(param.shape, generator=generator) * 0.1)
    config = SampleConfig(**SETTINGS | settings)
    evaluate = in_turn(networks[0]) if parallel.pp == 1 else pipelined(networks, engine_config, mesh)
    mine = videos_of_rank(len(seeds), mesh, num_parallel=2 if config.cfg_parallel else 1)
    own_seeds = seeds[mine.start : mine.stop]
    return {
        "seeds": own_seeds,
        "latents": sample_scene(
            on_halves(evaluate, mesh) if config.cfg_parallel else evaluate,
            scene(own_seeds),
            config,
            sigma_data=0.5,
            has_condition_mask=True,
        ),
        "digest": weights_digest(networks, mesh),
    }


def scene(seeds: list[int]) -> Scene:
    """One given latent frame, one prompt and one negative prompt, of which a part is seen, for all seeds."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Scene(
        text_BSE=draw(1, 5, MODEL.text_width),
        negative_text_BSE=draw(1, 5, MODEL.text_width),
        negative_text_mask_BS=torch.tensor([[1, 1, 0, 1, 0]]),
        fps_B=[24.0] * len(seeds),
        shape_CTHW=SHAPE_CTHW,
        seed_B=seeds,
        given_BCTHW=draw(1, SHAPE_CTHW[0], 1, *SHAPE_CTHW[2:]) * 0.5,
    )
