"""Linears cut over two ranks do what whole ones do, forward and backward; norm and attention follow their formulas."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from support import layouts
from support.ranks import RankPool
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import make_layers
from cosmos_train.parallel.layers import (
    RMSNorm,
    SplitAttention,
    causal_attention,
    dot_product_attention,
    fuses_weight_gradients,
    masked_attention,
)
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh


def config_of(parallel: ParallelConfig):
    return transformer_config(parallel, dtype=torch.float32, num_layers=1, width=4, num_heads=2)


def mesh_of(rank: int, size: int) -> Mesh:
    """As far as layers ask it when they are made."""
    tp = SimpleNamespace(rank=lambda: rank, size=lambda: size)
    return cast(Mesh, SimpleNamespace(tp=tp, device=torch.device("cpu")))


@pytest.fixture(scope="module")
def expected(ranks: Callable[[int], RankPool]) -> dict[str, Tensor]:
    """The same with torch's own linears and the weights that every layout starts from."""
    weights = {name: part for name, (part, _) in ranks(1).run(layouts.filled, ParallelConfig(), 2)[0].items()}
    column, shared, row = (weights[f"{name}.weight"].requires_grad_() for name in ("column", "shared", "row"))
    x, text, upstream_gradient = layouts.example()
    x.requires_grad_()
    text.requires_grad_()
    y = F.linear(torch.relu(F.linear(x, column) + F.linear(text, shared)), row)
    y.backward(upstream_gradient)
    leaves = {"x": x, "text": text, "column.weight": column, "shared.weight": shared, "row.weight": row}
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"y": y.detach(), **gradients}


@pytest.mark.parametrize(
    ("num_ranks", "parallel"),
    [
        (1, ParallelConfig()),
        (2, ParallelConfig(tp=2)),
        (2, ParallelConfig(tp=2, sequence_parallel=True)),
    ],
    ids=["alone", "tp2", "tp2 sequence"],
)
def test_linears(
    ranks: Callable[[int], RankPool], expected: dict[str, Tensor], num_ranks: int, parallel: ParallelConfig
):
    for found in ranks(num_ranks).run(layouts.linears, parallel):
        assert found.pop("rows") == layouts.NUM_TOKENS / (2 if parallel.sequence_parallel else 1)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_norm():
    x, norm = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(1)), RMSNorm(6, eps=0.1)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(6.0))
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * torch.arange(6.0)
    torch.testing.assert_close(norm(x), expected)
    assert RMSNorm(6, eps=0.1, dtype=torch.bfloat16).weight.dtype == torch.bfloat16


def test_attention_sees_every_token_of_its_own_sample_and_head():
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64)  # [L, B, N, K]
    k, v = (torch.randn(7, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))  # [S, B, N, K]
    scores = torch.einsum("lbnk,sbnk->bnls", q, k) / 4**0.5
    expected = torch.einsum("bnls,sbnk->lbnk", scores.softmax(-1), v).reshape(5, 2, 12)
    torch.testing.assert_close(dot_product_attention(q, k, v), expected)


def test_attention_sees_no_key_that_is_masked():
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64)  # [L, B, N, K]
    k, v = (torch.randn(4, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))  # [S, B, N, K]
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0]])
    scores = torch.einsum("lbnk,sbnk->bnls", q, k) / 4**0.5 - 1e30 * (1 - mask)[:, None, None]
    expected = torch.einsum("bnls,sbnk->lbnk", scores.softmax(-1), v).reshape(5, 2, 12)
    torch.testing.assert_close(masked_attention(q, k, v, mask), expected)
    attention = SplitAttention(dot_product_attention, exchange=False)
    torch.testing.assert_close(attention(q, k, v, key_mask_BS=mask), expected)
    torch.testing.assert_close(expected[:, 1].unflatten(-1, (3, 4)), v[2, 1].expand(5, 3, 4))


@pytest.mark.parametrize("choice", ["auto", "native"])
def test_without_cuda_the_layers_are_the_native_ones(choice):
    parallel = ParallelConfig(layers=choice)
    assert make_layers(parallel, config_of(parallel), mesh_of(0, 1)).name == "native"


def test_transformer_engine_is_refused_where_it_is_not():
    """megatron-core would hand out mock layers."""
    parallel = ParallelConfig(layers="te")
    with pytest.raises(
        ConfigError, match=r"^parallel.layers=te needs TransformerEngine .* on cpu .*; use auto or native"
    ):
        make_layers(parallel, config_of(parallel), mesh_of(0, 1))


def test_a_ring_is_refused_where_it_is_not():
    """Another exchange would give the same numbers, but not what was asked for."""
    with pytest.raises(
        ConfigError, match=r"^parallel.cp_comm=p2p is TransformerEngine's ring, .* cpu .*; use all_gath"
    ):
        make_layers(ParallelConfig(cp=2, cp_comm="p2p"), config_of(ParallelConfig(cp=2)), mesh_of(0, 1))


def test_causal_attention_by_its_formula():
    """Query i sees keys 0 .. first + i; two query heads share a key/value head."""
    generator = torch.Generator().manual_seed(1)
    k, v = (torch.randn(9, 2, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))  # [S, B, G, K]
    for first, length in ((0, 9), (3, 4), (8, 1), (0, 2)):
        q = torch.randn(length, 2, 4, 4, generator=generator, dtype=torch.float64)  # [L, B, N, K]
        keys, values = (x.repeat_interleave(2, dim=2) for x in (k, v))
        scores = torch.einsum("lbnk,sbnk->bnls", q, keys) / 4**0.5
        sees = torch.arange(9) <= first + torch.arange(length)[:, None]
        weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
        expected = torch.einsum("bnls,sbnk->lbnk", weights, values).flatten(2)
        torch.testing.assert_close(causal_attention(q, k, v, first=first), expected)


@pytest.mark.parametrize(
    ("choice", "modes"), [("none", []), ("blocks", [None] * 2), ("cuda_graphs", ["reduce-overhead"] * 2)]
)
def test_every_block_is_compiled(monkeypatch: pytest.MonkeyPatch, choice: Any, modes: list[str | None]):
    """That compiled blocks give the same answer is shown by `make parity`: it takes a while."""
    seen: list[str | None] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode=None: seen.append(mode))
    model = nn.Module()
    model.blocks = nn.ModuleDict({"0": nn.Linear(2, 2), "1": nn.Linear(2, 2)})
    parallel = ParallelConfig(compile=choice)
    make_layers(parallel, config_of(parallel), mesh_of(0, 1)).finish(model)
    assert seen == modes


@pytest.mark.parametrize("name", ["column_linear", "row_linear"])
@pytest.mark.parametrize("is_trained", [True, False], ids=["under DDP", "alone"])
def test_apex_kernel_is_used_where_there_is_a_sum_of_gradients(
    ranks: Callable[[int], RankPool], name: str, is_trained: bool
):
    """DDP gives the weights main_grad; a backward pass without it leaves the gradient where torch does."""
    [(calls, gradient, expected)] = ranks(1).run(layouts.fused_gradient, name, is_trained)
    assert calls == int(is_trained)
    torch.testing.assert_close(gradient, expected)


def test_apex_kernel_is_used_on_cuda_alone_and_pypis_package_of_that_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    (tmp_path / "apex.py").write_text("")  # PyPI's, which brings no kernels
    assert not fuses_weight_gradients(cuda)
    (tmp_path / "fused_weight_gradient_mlp_cuda.py").write_text("")
    importlib.invalidate_caches()
    assert fuses_weight_gradients(cuda) and not fuses_weight_gradients(cpu)
