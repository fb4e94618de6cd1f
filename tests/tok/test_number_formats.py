"""8-bit floats and their scales against the definition, element by element; formats that are no weights by name."""

import pytest
import torch
from torch import Tensor

from cosmos_tok.config import NotFiniteError, TokenizerError
from cosmos_tok.number_formats import (
    EIGHT_BITS,
    FLOATS,
    dequantised,
    num_not_finite,
    require_finite,
    require_float,
    require_unpacked,
    scales_of,
)

ROWS, COLUMNS = 20, 12


def by_definition(weight: Tensor, scale: Tensor, side: int) -> Tensor:
    """weight[i, j] * scale[i // side, j // side]."""
    found = torch.empty(weight.shape)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            found[i, j] = weight[i, j].float() * scale[i // side, j // side].float()
    return found


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_scales_of_square_blocks(dtype: torch.dtype, side: int):
    """Also where blocks at the edges are smaller."""
    weight = torch.randn(ROWS, COLUMNS).to(dtype)
    scale = torch.rand(-(-ROWS // side), -(-COLUMNS // side)) + 0.5
    assert torch.equal(dequantised(weight, scale, "a"), by_definition(weight, scale, side))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (ROWS,), (ROWS, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_scale_and_one_for_each_row(shape: tuple[int, ...], dtype: torch.dtype):
    weight, scale = torch.randn(ROWS, COLUMNS).to(torch.float8_e4m3fn), (torch.rand(shape) + 0.5).to(dtype)
    whole = scale.reshape(-1, 1).expand(ROWS, COLUMNS)
    found = dequantised(weight, scale, "a")
    assert found.dtype == torch.float32 and torch.equal(found, by_definition(weight, whole, 1))


def test_kernels_and_vectors_have_a_scale_for_each_row():
    kernel, scale = torch.randn(3, 2, 1, 2, 2).to(torch.float8_e5m2), torch.tensor([1.0, 2.0, 4.0])
    assert torch.equal(dequantised(kernel, scale, "a"), kernel.float() * scale.view(3, 1, 1, 1, 1))
    vector = torch.randn(3).to(torch.float8_e5m2)
    assert torch.equal(dequantised(vector, scale, "a"), vector.float() * scale)
    power = torch.tensor([2.0]).to(torch.float8_e8m0fnu)
    assert torch.equal(dequantised(vector, power, "a"), vector.float() * 2)


@pytest.mark.parametrize("shape", [(2,), (1, COLUMNS), (ROWS, COLUMNS, 1), (7, 4), (4, 3), (0,)])
def test_a_scale_without_a_known_meaning_is_refused(shape: tuple[int, ...]):
    """Such as blocks of 3, or of 5 rows by 4 columns."""
    meta = {"a.weight": torch.empty(ROWS, COLUMNS).to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(shape)}
    with pytest.raises(TokenizerError, match=r"file: a.weight_scale is of shape .*, which is neither one number"):
        scales_of(meta, "file")


def test_scales_are_found_by_their_names():
    weight, scale = torch.ones(2, 2).to(torch.float8_e5m2), torch.ones(1)
    for name, beside in (
        ("net.a.weight", "net.a.weight_scale"),
        ("net.a.weight", "net.a.weight_scale_inv"),
        ("net.a.weight", "net.a.scale_weight"),
        ("ema.net-a-weight", "ema.net-a-scale_weight"),
        ("in_proj", "scale_in_proj"),
    ):
        assert scales_of({name: weight, beside: scale}, "file") == {name: beside}
    assert scales_of({"a.weight": weight, "b.weight_scale": scale}, "file") == {}
    assert scales_of({"a.weight": weight.float(), "a.weight_scale": scale}, "file") == {}
    with pytest.raises(TokenizerError, match=r"a.weight has the scales a.weight_scale and a.scale_weight; leave"):
        scales_of({"a.weight": weight, "a.weight_scale": scale, "a.scale_weight": scale}, "file")
    with pytest.raises(TokenizerError, match=r"a.weight_scale is int32, which no scale is"):
        scales_of({"a.weight": weight, "a.weight_scale": scale.int()}, "file")


@pytest.mark.parametrize("name", ["int8", "uint8", "int32", "int64", "bool", "complex64", "float8_e4m3fnuz", "uint16"])
def test_formats_that_are_no_weights_are_named(name: str):
    with pytest.raises(TokenizerError, match=rf"file: a.weight is {name}, and weights are read as float64"):
        require_float("a.weight", torch.empty(3, dtype=getattr(torch, name)), "file")


def test_8_bits_without_a_scale_are_no_weights():
    for dtype in EIGHT_BITS:
        with pytest.raises(TokenizerError, match=r"a.weight is float8_\w+, without a scale .* such as a.weight_scale"):
            require_float("a.weight", torch.empty(3, dtype=dtype), "file")
    for dtype in FLOATS:
        require_float("a.weight", torch.empty(3, dtype=dtype), "file")


@pytest.mark.parametrize(
    ("name", "by"), [("a.qweight", "GPTQ"), ("a.weight.absmax", "bitsandbytes"), ("a-SCB", "bitsandbytes")]
)
def test_packed_weights_are_named(name: str, by: str):
    with pytest.raises(TokenizerError, match=rf"file: {name} belongs to weights packed by {by}"):
        require_unpacked(["b.weight", name], "file")
    require_unpacked(["b.weight", f"{name}.c"], "file")


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_that_are_not_finite_are_counted(dtype: torch.dtype):
    tensor = torch.randn(5, 7).to(dtype)
    assert num_not_finite(tensor) == 0
    tensor[0, 0], tensor[3] = torch.nan, -torch.inf
    assert num_not_finite(tensor) == 8
    with pytest.raises(NotFiniteError, match=r"file: 8 of 35 numbers of a are not finite"):
        require_finite("a", tensor, "file")


def test_what_has_no_numbers_is_finite():
    for tensor in (torch.empty(0), torch.tensor([3]), torch.empty(4, device="meta"), torch.tensor([True])):
        require_finite("a", tensor, "file")
