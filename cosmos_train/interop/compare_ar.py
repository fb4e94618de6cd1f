"""Logits of an autoregressive world model, the source of a conversion or its result, on one fixed input."""

import torch
from torch import Tensor

from cosmos_train.interop.single_blocks import filled, single_blocks
from cosmos_train.interop.source import WorldSource
from cosmos_train.models.world_ar.build import megatron_config
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.objectives.next_token import sequence
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.layers import native_layers

SIZE_THW = (3, 3, 5)
"""Latent frames, rows and columns of the codes that are read."""


def logits(source: WorldSource) -> Tensor:
    """[L, 1, V] in fp32, one block in memory at a time."""
    config, generator = source.require_ar(), torch.Generator().manual_seed(0)
    codes_BTHW = torch.randint(config.vocab_size, (1, *SIZE_THW), generator=generator)
    ids_BL, _ = sequence(codes_BTHW, config.vocab_size if config.begin_token else None)
    text_size = (1, config.action_width) if config.action_width else (6, config.text_width)
    text_BSE = torch.randn(1, *text_size, generator=generator) if config.cross_attention else None
    parallel = ParallelConfig()
    mesh = init.start(parallel, seed=0)
    layers = native_layers(parallel, megatron_config(config, parallel, dtype=torch.float32), mesh)
    result: Tensor | tuple[Tensor, object] | None = None
    for stage in single_blocks(config.num_blocks):
        piece = filled(lambda stage=stage: WorldAR(config, layers, stage), source.ours)
        assert not isinstance(result, tuple), "only the last block gives logits"
        result = piece(ids_BL, SIZE_THW[1:], text_BSE=text_BSE, hidden_LBD=result)
    assert isinstance(result, tuple), "the last block gives logits"
    return result[0]
