"""Linears cut over two ranks do what whole ones do, forward and backward; norm and attention follow their formulas."""

import ast
import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from support import layouts
from support.ranks import RankPool
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import make_layers
from cosmos_train.parallel.layers import DotProductAttention, RMSNorm, enter_sequence, leave_sequence
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


def test_tokens_that_do_not_divide_are_refused():
    enter = enter_sequence(config_of(ParallelConfig(tp=2, sequence_parallel=True)), mesh_of(1, 2))
    assert torch.equal(enter(torch.arange(4.0)[:, None, None]).flatten(), torch.tensor([2.0, 3.0]))
    with pytest.raises(ValueError, match=r"^5 tokens do not divide over parallel.tp=2 ranks; switch parallel.seq"):
        enter(torch.zeros(5, 1, 1))


def test_without_sequence_parallelism_tokens_stay_whole():
    config, x = config_of(ParallelConfig(tp=2)), torch.zeros(5, 1, 1)
    assert enter_sequence(config, mesh_of(0, 2))(x) is x
    assert leave_sequence(config, mesh_of(0, 2))(x) is x


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
    torch.testing.assert_close(DotProductAttention()(q, k, v), expected)


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


# The TransformerEngine maker can not be imported without it, but what it is written against can be read.


def signature_of(function: ast.FunctionDef) -> inspect.Signature:
    """Without `self` or `cls`."""
    arguments, empty = function.args, inspect.Parameter.empty
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [empty] * (len(plain) - len(arguments.defaults)) + [None] * len(arguments.defaults)
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return inspect.Signature(
        [
            inspect.Parameter(a.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for a, default in zip(plain[1:], defaults[1:], strict=True)
        ]
        + [
            inspect.Parameter(a.arg, inspect.Parameter.KEYWORD_ONLY, default=empty if default is None else None)
            for a, default in named
        ]
    )


def method_of(name: str, method: str) -> ast.FunctionDef:
    """The method of one of megatron-core's TransformerEngine classes, or of the class that it inherits from."""
    source = distribution("megatron-core").locate_file("megatron/core/extensions/transformer_engine.py")
    classes = {
        node.name: node for node in ast.parse(Path(str(source)).read_text()).body if isinstance(node, ast.ClassDef)
    }
    for node in classes[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == method:
            return node
    [base] = classes[name].bases
    return method_of(ast.unparse(base), method)


def calls_to_megatron() -> Iterator[tuple[str, str, ast.Call]]:
    """(class of megatron-core, method, call) for every call that cosmos_train/parallel/te.py makes."""
    tree = ast.parse((Path(__file__).resolve().parents[2] / "cosmos_train/parallel/te.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("TENorm"):
            yield "TENorm", "__new__", node
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TEDotProductAttention":
            yield "TEDotProductAttention", "__init__", node
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.core":
            yield "TEDotProductAttention", "forward", node
    for class_node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in ast.walk(class_node):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called.startswith("super().") and class_node.name != "TEAttention":
                yield ast.unparse(class_node.bases[0]), called.removeprefix("super()."), node


def bind(name: str, method: str, call: ast.Call) -> None:
    """TypeError where the call does not suit the method."""
    given = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    signature_of(method_of(name, method)).bind(*call.args, **given)


def test_the_transformer_engine_maker_calls_megatron_as_it_wants_to_be_called():
    checked = []
    for name, method, call in calls_to_megatron():
        bind(name, method, call)
        checked.append(f"{name}.{method}")
    linears = ("TEColumnParallelLinear", "TERowParallelLinear")
    attention = [f"TEDotProductAttention.{method}" for method in ("__init__", "forward")]
    both = [f"{name}.{method}" for name in linears for method in ("__init__", "forward")]
    assert sorted(checked) == sorted(["TENorm.__new__", *attention, *both])


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("f(1)", "missing a required argument: 'hidden_size'"),
        ("f(1, 2, 3, 4)", "too many positional arguments"),
        ("f(1, 2, colour=3)", "unexpected keyword argument 'colour'"),
    ],
)
def test_a_wrong_call_is_found_out(call: str, complaint: str):
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    with pytest.raises(TypeError, match=complaint):
        bind("TENorm", "__new__", node)
