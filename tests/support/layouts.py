"""What tests/parallel asks of every rank of a layout: its groups, its shards, and linears cut over ranks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import layers as mcore_layers
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel import init, layers, mcore_private
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.layers import native_layers
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import layout_independent_fill, partition_dim

D_IN, D_HIDDEN, D_OUT, NUM_TOKENS, BATCH = 6, 8, 4, 4, 2


def groups(parallel: ParallelConfig) -> dict[str, Any]:
    """This rank's place, and what a sum over each of its groups gives where every rank has 10 ** rank."""
    mesh = init.start(parallel, seed=3)
    sums = {}
    for name in ("world", "tp", "pp", "cp", "dp", "replicas", "tp_cp"):
        group = getattr(mesh, name)
        value = torch.tensor([10 ** dist.get_rank()])
        dist.all_reduce(value, group=group)
        sums[name] = (dist.get_process_group_ranks(group), value.item())
    return {
        "sums": sums,
        "layout": mesh.layout,
        "position": mesh.position,
        "first": mesh.is_first_stage,
        "last": mesh.is_last_stage,
        "main": mesh.is_main,
        "device": str(mesh.device),
        "draw": torch.rand(1).item(),
    }


def listening_threads(parallel: ParallelConfig) -> list[int]:
    """gloo's threads in this rank that listen: with this layout's groups, and with one group more."""
    init.start(parallel, seed=3)
    found = [_threads_of("gloo_tcp_loop")]
    another = dist.new_group(backend="gloo")
    found.append(_threads_of("gloo_tcp_loop"))
    dist.barrier()  # or a rank would leave the group while the other one still enters it
    dist.destroy_process_group(another)
    return found


def _threads_of(name: str) -> int:
    return sum(path.read_text() == f"{name}\n" for path in Path("/proc/self/task").glob("*/comm"))


def refused_layout(parallel: ParallelConfig) -> str:
    """What is said of a layout that does not suit the number of ranks."""
    try:
        init.start(parallel, seed=3)
    except ConfigError as error:
        return str(error)
    return ""


def stop_and_start() -> list[bool]:
    """Whether there is a process group: started, left, left twice, started again."""
    seen = []
    for change in (_start, init.stop, init.stop, _start):
        change()
        seen.append(dist.is_initialized())
    return seen


def groups_left(parallel: ParallelConfig) -> list[bool]:
    """Whether megatron-core has groups after a start, and after the end."""
    seen = []
    for change in (lambda: init.start(parallel, seed=3), init.stop):
        change()
        seen.append(bool(mcore_private.made_groups()))
    return seen


def slices_updated() -> dict[str, slice]:
    """Which slice of each parameter of a linear this of two data-parallel ranks updates."""
    mesh = init.start(ParallelConfig(), seed=3)
    model = nn.Linear(3, 5)
    config = transformer_config(ParallelConfig(), dtype=torch.float32, num_layers=1, width=3, num_heads=1)
    settings = AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, clip_grad_norm=1.0)
    [optimizer] = Engine([model], config, mesh, settings).optimizer.chained_optimizers
    held = [(name, param) for name, param in model.named_parameters() if param in optimizer.model_param_group_index_map]
    return {name: mcore_private.slice_updated_here(optimizer, param) for name, param in held}


def _start() -> None:
    init.start(ParallelConfig(), seed=3)


def filled(parallel: ParallelConfig, seed: int) -> dict[str, tuple[Tensor, int | None]]:
    """Name -> (this rank's part, dimension along which it is cut) of a small model's parameters."""
    mesh = init.start(parallel, seed=1)
    model = _model(parallel, mesh)
    fill = layout_independent_fill(mesh, seed=seed)
    for name, param in model.named_parameters():
        fill(name, param, lambda whole, generator: whole.normal_(generator=generator))
    return {name: (param.detach(), partition_dim(param)) for name, param in model.named_parameters()}


def linears(parallel: ParallelConfig) -> dict[str, Tensor]:
    """Output and gradients, made whole, of row(relu(column(x) + shared(text))) and of the norm's weight."""
    mesh = init.start(parallel, seed=1)
    model = _model(parallel, mesh)
    layers = native_layers(parallel, _config(parallel), mesh)
    fill = layout_independent_fill(mesh, seed=2)
    for name, param in model.named_parameters():
        fill(name, param, lambda whole, generator: whole.normal_(generator=generator))
    x, text, upstream_gradient = example()
    x.requires_grad_()
    text.requires_grad_()
    split = layers.split(len(x))
    rows = split.enter(x)
    hidden = torch.relu(model["column"](rows) + model["shared"](text))
    y = split.leave(model["row"](hidden))
    y.backward(upstream_gradient)
    assert x.grad is not None and text.grad is not None
    if parallel.sequence_parallel:
        dist.all_reduce(x.grad, group=mesh.tp)  # each rank saw its rows alone
    found = {"rows": torch.tensor(len(rows)), "y": y.detach(), "x": x.grad, "text": text.grad}
    for name, param in model.named_parameters():
        if param.grad is not None:
            found[name] = _whole(param.grad, partition_dim(param), mesh)
    return found


def example() -> tuple[Tensor, Tensor, Tensor]:
    """x [L, B, D_IN], text [L, B, D_IN], gradient of the output [L, B, D_OUT]."""
    generator = torch.Generator().manual_seed(8)
    widths = (D_IN, D_IN, D_OUT)
    x, text, gradient = (torch.randn(NUM_TOKENS, BATCH, width, generator=generator) for width in widths)
    return x, text, gradient


def _config(parallel: ParallelConfig) -> Any:
    return transformer_config(parallel, dtype=torch.float32, num_layers=parallel.pp, width=D_IN, num_heads=2)


def _model(parallel: ParallelConfig, mesh: Mesh) -> nn.ModuleDict:
    layers = native_layers(parallel, _config(parallel), mesh)
    return nn.ModuleDict(
        {
            "column": layers.column_linear(D_IN, D_HIDDEN),
            "shared": layers.shared_linear(D_IN, D_HIDDEN),
            "row": layers.row_linear(D_HIDDEN, D_OUT),
            "norm": layers.head_norm(D_OUT),
        }
    )


def _whole(part: Tensor, dim: int | None, mesh: Mesh) -> Tensor:
    if dim is None:
        return part
    parts = [torch.empty_like(part) for _ in range(mesh.tp.size())]
    dist.all_gather(parts, part.contiguous(), group=mesh.tp)
    return torch.cat(parts, dim=dim)


def fused_gradient(name: str, is_trained: bool) -> tuple[int, Tensor | None, Tensor]:
    """A linear as on CUDA with apex, whose kernel is written out here; is_trained: its weight has main_grad, as by DDP.

    Returns:
        How often the kernel was called; the weight's gradient, from where it is left; what it should be.
    """
    calls = []

    def add_product(x: Tensor, gradient: Tensor, total: Tensor) -> None:
        calls.append(x)
        total += gradient.t() @ x

    mesh = init.start(parallel := ParallelConfig(), seed=3)
    config = transformer_config(parallel, dtype=torch.float32, num_layers=1, width=4, num_heads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "fuses_weight_gradients", lambda device: True)
        patch.setattr(mcore_layers, "_grad_accum_fusion_available", True)
        kernel = SimpleNamespace(wgrad_gemm_accum_fp32=add_product)
        patch.setattr(mcore_layers, "fused_weight_gradient_mlp_cuda", kernel, raising=False)
        linear = getattr(native_layers(parallel, config, mesh), name)(D_IN, D_OUT)
        nn.init.normal_(linear.weight)
        if is_trained:
            linear.weight.main_grad = torch.zeros_like(linear.weight)
        x = torch.randn(NUM_TOKENS, BATCH, D_IN, requires_grad=True)
        linear(x).square().sum().backward()
    weight = linear.weight.detach().clone().requires_grad_()
    (x.detach() @ weight.t()).square().sum().backward()
    assert weight.grad is not None
    return len(calls), linear.weight.main_grad if is_trained else linear.weight.grad, weight.grad
