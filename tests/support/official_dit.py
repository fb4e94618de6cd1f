"""Small world models in NVIDIA's layout, with random weights in which nothing is zero, one or alike."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_train.interop.names import official_shapes
from cosmos_train.interop.names_dit import dit_table
from cosmos_train.models.dit.config import DiTConfig

SMALL: dict[str, Any] = {
    "num_blocks": 2,
    "num_heads": 4,
    "head_dim": 24,
    "adaln_rank": 16,
    "text_width": 32,
    "latent_channels": 4,
    "max_latent_frames": 8,
    "max_latent_size": 24,
}


def small_config(**sizes: Any) -> DiTConfig:
    """SMALL with some fields changed."""
    return DiTConfig(**(SMALL | sizes))


def official_state(config: DiTConfig, *, seed: int = 0, learned_uncertainty: bool = True) -> dict[str, Tensor]:
    """Tensors of model.pt: matrices of a scale that keeps the residual stream near 1, norms near 1."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in official_shapes(dit_table(config, learned_uncertainty=learned_uncertainty)).items():
        drawn = torch.randn(shape, generator=generator)
        if (name.endswith(".1.weight") and len(shape) == 1) or "norm" in name:
            state[name] = 1 + 0.2 * drawn
        elif len(shape) == 2 and "pos_emb" not in name:
            state[name] = drawn / shape[1] ** 0.5
        else:
            state[name] = drawn
    side = max(config.table_rows)
    return state | {"net.pos_embedder.seq": torch.arange(side, dtype=torch.float32)}


def write_official(path: Path, config: DiTConfig, *, seed: int = 0, learned_uncertainty: bool = True) -> Path:
    """model.pt at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(official_state(config, seed=seed, learned_uncertainty=learned_uncertainty), path)
    return path
