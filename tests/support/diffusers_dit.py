"""diffusers' network with the weights of our DiT, to compare outputs, gradients and speed with.

The twin is called diffusers' way: one fps for the whole batch, the padding mask as [1, 1, H, W] in pixels. diffusers
counts the condition mask among `in_channels` (17 in the released Video2World models) and adds the padding mask itself.
"""

from collections.abc import Mapping
from types import SimpleNamespace

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers import transformer_cosmos
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from torch import Tensor

from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import NORM_EPS, DiT

if not hasattr(transformer_cosmos, "transforms"):
    # diffusers resizes the padding mask with torchvision, which nothing else here needs: without it the module lacks
    # this name and its forward ends in a NameError. torchvision's nearest is torch's.
    stand_in = SimpleNamespace(
        InterpolationMode=SimpleNamespace(NEAREST="nearest"),
        functional=SimpleNamespace(resize=lambda x, size, interpolation: F.interpolate(x, size, mode=interpolation)),
    )
    setattr(transformer_cosmos, "transforms", stand_in)  # noqa: B010 pyright knows no such attribute


def diffusers_twin(dit: DiT) -> CosmosTransformer3DModel:
    """A diffusers model that computes the same function. `dit` is whole: one process, all blocks."""
    config = dit.config
    assert config.base_fps == 24, "diffusers has no option for the base frame rate"
    twin = CosmosTransformer3DModel(
        in_channels=config.in_channels - 1,  # all but the padding mask
        out_channels=config.latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.num_blocks,
        mlp_ratio=config.mlp_ratio,
        text_embed_dim=config.text_width,
        adaln_lora_dim=config.adaln_rank,
        max_size=(config.max_latent_frames, config.max_latent_size, config.max_latent_size),
        patch_size=(1, config.patch_spatial, config.patch_spatial),
        rope_scale=(config.rope_scale_t, config.rope_scale_h, config.rope_scale_w),
    )
    for module in twin.modules():
        if isinstance(module, Attention):
            for norm in (module.norm_q, module.norm_k):
                assert isinstance(norm, RMSNorm)
                norm.eps = NORM_EPS  # the released code's; diffusers leaves its attention's default, 1e-5
    twin.load_state_dict(twin_names(config, dit.state_dict()))
    return twin


def twin_names(config: DiTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of a DiT under diffusers' names: fused matrices are split, nothing else changes."""
    named = {
        "patch_embed.proj": tensors["embed.weight"],
        "time_embed.t_embedder.linear_1": tensors["timestep.hidden.weight"],
        "time_embed.t_embedder.linear_2": tensors["timestep.out.weight"],
        "time_embed.norm": tensors["timestep.norm.weight"],
        "norm_out.linear_1": tensors["final.modulation.down.weight"],
        "norm_out.linear_2": tensors["final.modulation.up.weight"],
        "proj_out": tensors["final.linear.weight"],
    }
    for index in range(config.num_blocks):
        ours, theirs = f"blocks.{index}", f"transformer_blocks.{index}"
        q, k, v = _split_heads(tensors[f"{ours}.self_attention.qkv.weight"], config.num_heads, 3)
        text_k, text_v = _split_heads(tensors[f"{ours}.cross_attention.kv.weight"], config.num_heads, 2)
        text_q = tensors[f"{ours}.cross_attention.q.weight"]
        for number, part, (to_q, to_k, to_v) in ((1, "self", (q, k, v)), (2, "cross", (text_q, text_k, text_v))):
            attention = f"{theirs}.attn{number}"
            named |= {f"{attention}.to_q": to_q, f"{attention}.to_k": to_k, f"{attention}.to_v": to_v}
            named[f"{attention}.norm_q"] = tensors[f"{ours}.{part}_attention.q_layernorm.weight"]
            named[f"{attention}.norm_k"] = tensors[f"{ours}.{part}_attention.k_layernorm.weight"]
            named[f"{attention}.to_out.0"] = tensors[f"{ours}.{part}_attention.out.weight"]
        for number, part in enumerate(("self", "cross", "mlp"), start=1):
            named[f"{theirs}.norm{number}.linear_1"] = tensors[f"{ours}.{part}_modulation.down.weight"]
            named[f"{theirs}.norm{number}.linear_2"] = tensors[f"{ours}.{part}_modulation.up.weight"]
        named[f"{theirs}.ff.net.0.proj"] = tensors[f"{ours}.mlp.up.weight"]
        named[f"{theirs}.ff.net.2"] = tensors[f"{ours}.mlp.down.weight"]
    tables = {f"learnable_pos_embed.pos_emb_{axis}": tensors[f"position.{axis}"] for axis in "thw"}
    return tables | {f"{name}.weight": tensor for name, tensor in named.items()}


def _split_heads(rows: Tensor, num_heads: int, parts: int) -> list[Tensor]:
    """Rows [N, parts, K] -> `parts` matrices with rows [N, K]."""
    return [part.flatten(0, 1) for part in rows.unflatten(0, (num_heads, parts, -1)).unbind(1)]
