"""A small DiT with sizes that every recipe takes, and what tests/gpu asks of it."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT
from cosmos_train.models.dit.world import WorldModel, build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig, PrecisionConfig
from cosmos_train.parallel.context import split_tokens
from cosmos_train.parallel.engine import AdamSettings, Engine, make_layers
from cosmos_train.parallel.layers import dot_product_attention
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh

MODEL = DiTConfig(num_blocks=4, num_heads=8, head_dim=64, adaln_rank=64, text_width=256, latent_channels=16)
LATENT_THW = (3, 14, 14)
NUM_TOKENS = 3 * 7 * 7  # of no recipe's liking
TEXT_TOKENS, BATCH = 21, 2
NATIVE, TE = ParallelConfig(layers="native"), ParallelConfig(layers="te")


def with_recipe(recipe: Any, **fields: Any) -> ParallelConfig:
    return ParallelConfig(layers="te", precision=PrecisionConfig(recipe=recipe), **fields)


def build(parallel: ParallelConfig, mesh: Mesh, dtype: torch.dtype) -> tuple[WorldModel, Any]:
    """The whole model with weights in which nothing is zero: the same ones, as bf16 has them, whatever the dtype."""
    [world], config = build_world_model(MODEL, parallel, mesh, dtype=dtype, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, param in sorted(world.net.named_parameters()):
            noise = (torch.randn(param.shape, generator=generator) * 0.02).to(param.device, torch.bfloat16)
            param.copy_(param.to(torch.bfloat16) + noise)
    return world, config


def padded(network: DiT, parallel: ParallelConfig, mesh: Mesh, *, align: int) -> DiT:
    """The same network on tokens that are padded."""
    network.layers = dataclasses.replace(
        network.layers, split=lambda count: split_tokens(count, parallel, mesh, align=align)
    )
    return network


def inputs(network: DiT, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of the network, as bf16 has them."""
    g, device = torch.Generator().manual_seed(5), next(network.parameters()).device
    x = torch.randn(BATCH, MODEL.latent_channels, *LATENT_THW, generator=g)
    text = torch.randn(BATCH, TEXT_TOKENS, MODEL.text_width, generator=g)
    return {
        "x_BCTHW": x.to(device, torch.bfloat16).to(dtype),
        "c_noise_B": torch.randn(BATCH, generator=g).to(device),
        "text_BSE": text.to(device, torch.bfloat16).to(dtype),
        "fps_B": [24.0] * BATCH,
    }


def answers(network: DiT, dtype: torch.dtype, *, passes: int = 1) -> dict[str, Tensor]:
    """The output, and every gradient for one gradient of it, of the last of some passes; in fp32."""
    found: dict[str, Tensor] = {}
    for _ in range(passes):
        network.zero_grad(set_to_none=True)
        output = network(**inputs(network, dtype))
        output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(6)).to(output))
        gradients = {name: param.grad.float() for name, param in network.named_parameters() if param.grad is not None}
        found = {"output": output.detach().float(), **gradients}
    return found


def errors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, float]:
    """Root mean square of the difference, as a part of that of what is wanted."""
    assert found.keys() == wanted.keys()
    return {name: ((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted}


def losses_around_training(parallel: ParallelConfig, mesh: Mesh, num_steps: int) -> tuple[float, float, WorldModel]:
    """The loss of one batch before and after steps on it under the engine, and the model."""
    world, config = build(parallel, mesh, torch.bfloat16)
    engine = Engine(
        [world], config, mesh, AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, clip_grad_norm=1.0)
    )
    batches = itertools.repeat(inputs(world.net, torch.bfloat16))

    def loss() -> float:
        return engine.evaluate(zero_loss, batches, num_micro_batches=1, num_tokens=NUM_TOKENS)["loss"]

    before = loss()
    for _ in range(num_steps):
        engine.train_step(zero_loss, batches, num_micro_batches=2, lr=3e-3, num_tokens=NUM_TOKENS)
    return before, loss(), world


def zero_loss(model: Any, batch: dict[str, Any], hidden: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss that weights can bring down fast: the mean square of the output."""
    output, _ = model(**batch, hidden_LBD=hidden)
    loss = output.float().square().mean()
    return loss, {"loss": loss.detach()}


def attention_of_tokens(cp_comm: Any, num_tokens: int) -> dict[str, Any]:
    """How far one of two ranks' part of the output and the gradients is from what torch gives for all tokens."""
    parallel = ParallelConfig(cp=2, cp_comm=cp_comm, layers="te")
    mesh = init.start(parallel, seed=1)
    config = transformer_config(
        parallel, dtype=torch.bfloat16, num_layers=1, width=MODEL.width, num_heads=MODEL.num_heads
    )
    layers = make_layers(parallel, config, mesh)
    split, attention = layers.split(num_tokens), layers.attention()
    g = torch.Generator().manual_seed(2)
    shape = (num_tokens, BATCH, MODEL.num_heads, MODEL.head_dim)
    whole = [torch.randn(shape, generator=g).to(mesh.device, torch.bfloat16) for _ in range(3)]
    upstream = torch.randn(num_tokens, BATCH, MODEL.width, generator=g).to(mesh.device, torch.bfloat16)

    mine = [split.context_rows(x).detach().requires_grad_() for x in whole]
    output = attention(*mine, split)
    output.backward(split.context_rows(upstream))
    reference = [x.detach().requires_grad_() for x in whole]
    wanted = dot_product_attention(*reference)
    wanted.backward(upstream)

    real = min(len(output), num_tokens - mesh.cp.rank() * len(output))  # rows of this rank that are no padding
    distances = {}
    for name, found, whole_answer in (
        ("output", output, wanted),
        *((name, part.grad, x.grad) for name, part, x in zip("qkv", mine, reference, strict=True)),
    ):
        assert found is not None and whole_answer is not None
        mine_of_it = split.context_rows(whole_answer)[:real].float()
        distances[name] = ((found[:real].float() - mine_of_it).norm() / mine_of_it.norm()).item()
    return {"padded": split.num_padded != num_tokens, "errors": distances}
