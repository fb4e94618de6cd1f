"""A parameter's part on a rank: the same whole tensor in every layout, cut where the layers say."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support import layouts
from support.ranks import RankPool
from torch import Tensor, nn

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import (
    layout_independent_fill,
    local_slice,
    mark_partial_gradients,
    partition_dim,
    torch_dtype,
    whole_shape,
)

Parts = dict[str, tuple[Tensor, int | None]]
"""Name -> (what a rank holds, the dimension along which it is cut)."""


def mesh_of(rank: int, size: int) -> Mesh:
    """As far as a shard asks it: this rank's place among the tensor-parallel ones."""
    return cast(Mesh, SimpleNamespace(tp=SimpleNamespace(rank=lambda: rank, size=lambda: size)))


def parameter(*shape: int, dim: int | None) -> nn.Parameter:
    """Marked as megatron-core's linears mark what they cut along `dim`."""
    param = nn.Parameter(torch.zeros(shape))
    marks: Any = param
    marks.tensor_model_parallel = dim is not None
    marks.partition_dim = -1 if dim is None else dim
    return param


@pytest.fixture(scope="module")
def single(ranks: Callable[[int], RankPool]) -> Parts:
    """What one process holds."""
    return ranks(1).run(layouts.filled, ParallelConfig(), 2)[0]


@pytest.mark.parametrize(
    "parallel",
    [ParallelConfig(), ParallelConfig(tp=2), ParallelConfig(tp=2, sequence_parallel=True), ParallelConfig(pp=2)],
    ids=["dp2", "tp2", "tp2 sequence", "pp2"],
)
def test_every_layout_starts_from_the_same_weights(
    ranks: Callable[[int], RankPool], single: Parts, parallel: ParallelConfig
):
    found = ranks(2).run(layouts.filled, parallel, 2)
    for name, (expected, dim) in single.items():
        parts = [rank[name][0] for rank in found]
        assert all(rank[name][1] == dim for rank in found)
        if parallel.tp == 1 or dim is None:
            assert all(torch.equal(part, expected) for part in parts), name
        else:
            assert all(part.shape[dim] * 2 == expected.shape[dim] for part in parts), name
            assert torch.equal(torch.cat(parts, dim=dim), expected), name


def test_which_parameters_are_cut(single: Parts):
    cuts = {name: dim for name, (_, dim) in single.items()}
    assert cuts == {"column.weight": 0, "shared.weight": 0, "row.weight": 1, "norm.weight": None}


def test_weights_depend_on_seed_and_name(ranks: Callable[[int], RankPool], single: Parts):
    column, shared = single["column.weight"][0], single["shared.weight"][0]
    assert column.shape == shared.shape and not torch.equal(column, shared)
    [other_seed] = ranks(1).run(layouts.filled, ParallelConfig(), 3)
    assert not torch.equal(column, other_seed["column.weight"][0])
    assert abs(column.mean()) < 0.5 and 0.5 < column.std() < 1.5, "what the init drew"


def test_the_whole_is_drawn_in_fp32_and_stored_in_the_parameters_type():
    exact, rounded = (nn.Parameter(torch.zeros(100, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    fill = layout_independent_fill(mesh_of(0, 1), seed=1)
    for param in (exact, rounded):
        fill("w", param, lambda whole, generator: whole.uniform_(generator=generator))
    assert torch.equal(exact.to(torch.bfloat16), rounded)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_slices_make_up_the_whole(dim: int | None):
    whole = torch.arange(24.0).view(4, 6)
    shape = [4, 6]
    if dim is not None:
        shape[dim] //= 2
    param = parameter(*shape, dim=dim)
    assert partition_dim(param) == dim
    assert whole_shape(param, mesh_of(0, 2)) == (4, 6)
    parts = [local_slice(whole, param, mesh_of(rank, 2)) for rank in range(2)]
    assert all(part.shape == param.shape for part in parts)
    assert torch.equal(parts[0] if dim is None else torch.cat(parts, dim=dim), whole)


def test_a_parameter_without_marks_is_whole():
    param = nn.Parameter(torch.zeros(3))
    assert partition_dim(param) is None
    assert whole_shape(param, mesh_of(1, 4)) == (3,)


def test_undivided_parameters_see_a_part_of_the_tokens():
    module = nn.ParameterDict({"cut": parameter(2, 2, dim=0), "whole": parameter(2, dim=None)})
    mark_partial_gradients(module)
    assert getattr(module["whole"], "sequence_parallel", False)
    assert not getattr(module["cut"], "sequence_parallel", False)


def test_precision_names():
    assert [torch_dtype(name) for name in ("fp32", "bf16")] == [torch.float32, torch.bfloat16]
