"""diffusers' network with the weights of our DiT, to compare outputs, gradients and speed with.

The twin is called diffusers' way: one fps for the whole batch, the padding mask as [1, 1, H, W] in pixels. diffusers
counts the condition mask among `in_channels` (17 in the released Video2World models) and adds the padding mask itself.
"""

from collections.abc import Mapping

from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from torch import Tensor

from cosmos_train.interop.compare import transformer_module, use_released_epsilon
from cosmos_train.interop.names_dit import diffusers_name, dit_table
from cosmos_train.interop.pipeline import transformer_arguments
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT


def diffusers_twin(dit: DiT) -> CosmosTransformer3DModel:
    """A diffusers model that computes the same function. `dit` is whole: one process, all blocks."""
    transformer_module()
    twin = CosmosTransformer3DModel(**transformer_arguments(dit.config))
    twin.load_state_dict(twin_names(dit.config, dit.state_dict()))
    return use_released_epsilon(twin)


def twin_names(config: DiTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of a DiT under diffusers' names: fused matrices are split, nothing else changes."""
    named: dict[str, Tensor] = {}
    for entry in dit_table(config, learned_uncertainty=False):
        parts = entry.split(tensors[entry.ours.removeprefix("net.")])
        named |= {diffusers_name(name): part for name, part in zip(entry.official, parts, strict=True)}
    return named
