"""The door for files of weights: from every kind of file the same tensors, in the numbers that they mean."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_tok.config import NotFiniteError, TokenizerError
from cosmos_tok.weights import load_weights, open_weights

WEIGHTS = {"a.weight": torch.randn(6, 4), "a.bias": torch.ones(2).bfloat16(), "counter": torch.tensor(7)}
FP8 = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).to(torch.float8_e4m3fn)
SAVES: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": lambda tensors, path: save_file(tensors, path),
    "zip": lambda tensors, path: torch.save(tensors, path),
    "pickles": lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", SAVES)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, kind: str, name: str):
    SAVES[kind](WEIGHTS, tmp_path / name)
    weights = open_weights(tmp_path / name)
    assert {key: (t.dtype, t.shape) for key, t in weights.meta.items()} == {
        key: (t.dtype, t.shape) for key, t in WEIGHTS.items()
    }
    assert all(torch.equal(weights.read(key), tensor) for key, tensor in WEIGHTS.items())


def test_a_file_that_was_zipped_again_is_read(tmp_path: Path):
    """Its tensors can not be mapped."""
    torch.save(WEIGHTS, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as one,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as two,
    ):
        for name in one.namelist():
            two.writestr(name, one.read(name))
    assert torch.equal(load_weights(tmp_path / "b.pt")["a.weight"], WEIGHTS["a.weight"])


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_a_weight_and_its_scale_may_lie_in_two_shards(tmp_path: Path, kind: str):
    SAVES[kind]({"a.weight": FP8}, tmp_path / "1.bin")
    SAVES[kind]({"a.weight_scale": torch.tensor(0.5)}, tmp_path / "2.bin")
    index = {"weight_map": {"a.weight": "1.bin", "a.weight_scale": "2.bin"}}
    (tmp_path / "model.bin.index.json").write_text(json.dumps(index))
    found = load_weights(tmp_path / "model.bin.index.json")
    assert found.keys() == {"a.weight"} and torch.equal(found["a.weight"], FP8.float() * 0.5)
    (tmp_path / "2.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(TokenizerError, match=r"2.bin is a Git LFS pointer"):
        open_weights(tmp_path / "model.bin.index.json")
    (tmp_path / "2.bin").unlink()
    with pytest.raises(TokenizerError, match=r"names 2 shards, and 1 of them are missing, first 2.bin"):
        open_weights(tmp_path / "model.bin.index.json")


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_what_lies_beside_8_bits_is_left_out(tmp_path: Path, kind: str):
    """Marks and scales of products in 8 bits; the same names beside other weights are tensors like all."""
    beside = {"a.scale_input": torch.ones(()), "a.input_scale": torch.ones(()), "scaled_fp8": torch.empty(0).to(FP8)}
    plain = {"b.weight": torch.ones(2), "b.scale_weight": torch.ones(2), "b.input_scale": torch.ones(1)}
    SAVES[kind]({"a.weight": FP8, "a.scale_weight": torch.tensor([2.0])} | beside | plain, tmp_path / "model")
    found = load_weights(tmp_path / "model")
    assert found.keys() == {"a.weight", *plain} and torch.equal(found["a.weight"], FP8.float() * 2)


@pytest.mark.parametrize("kind", SAVES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_named_where_they_are_read(tmp_path: Path, kind: str, bad: float):
    broken = torch.randn(6, 4)
    broken[2, 1:3] = bad
    SAVES[kind](WEIGHTS | {"b.weight": broken}, tmp_path / "model")
    weights = open_weights(tmp_path / "model")
    assert torch.equal(weights.read("a.weight"), WEIGHTS["a.weight"])
    with pytest.raises(NotFiniteError, match=r"model: 2 of 24 numbers of b.weight are not finite"):
        weights.read("b.weight")
    assert torch.equal(weights.read_unchecked("b.weight").isfinite(), broken.isfinite())


def test_8_bits_that_are_none_are_named(tmp_path: Path):
    broken = torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)
    save_file({"a.weight": broken, "a.weight_scale": torch.tensor(0.5)}, tmp_path / "model.safetensors")
    with pytest.raises(NotFiniteError, match=r"1 of 2 numbers of a.weight are not finite"):
        open_weights(tmp_path / "model.safetensors").read("a.weight")


def write_safetensors(path: Path, header: object, data: bytes, *, num_bytes: int | None = None) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if num_bytes is None else num_bytes) + text + data)


FLOATS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
DAMAGED: dict[str, tuple[dict, str]] = {
    "header": ({"num_bytes": 90_000}, r"cannot be read: it is cut off, at .* bytes within its header of 90,000; copy"),
    "tensors": ({"data": bytes(9)}, r"cannot be read: it is cut off, at \d+ of its \d+ bytes; copy the file again"),
    "offsets": ({"header": {"a": FLOATS | {"data_offsets": [0, 900]}}}, r"it is cut off, at \d+ of its \d+ bytes"),
    "too short a place": ({"header": {"a": FLOATS | {"shape": [5]}}}, r"cannot be read: .*copy the file again"),
    "too long": ({"data": bytes(99)}, r"cannot be read: .*copy the file again"),
    "no place": ({"header": {"a": {"dtype": "F32"}}}, r"its header is damaged at a; copy the file again"),
    "no object": ({"header": {"a": 3}}, r"its header is damaged at a"),
    "no JSON": ({"num_bytes": 20}, r"its header is no JSON"),
    "4 bits": ({"header": {"a": FLOATS | {"dtype": "F4"}}}, r"a is in the number format F4, which is not known here"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_safetensors_are_named(tmp_path: Path, name: str):
    changes, said = DAMAGED[name]
    write_safetensors(tmp_path / "a.safetensors", **({"header": {"a": FLOATS}, "data": bytes(16)} | changes))
    with pytest.raises(TokenizerError, match=rf"a.safetensors.*{said}"):
        open_weights(tmp_path / "a.safetensors")


def test_tensors_that_are_no_rows_of_numbers_are_named(tmp_path: Path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"a": torch.empty(3, device="meta")}, tmp_path / "meta.pt")
    for name, said in (("sparse", "a sparse tensor of float32"), ("meta", "without values")):
        with pytest.raises(TokenizerError, match=rf"{name}.pt: a is .*{said}"):
            open_weights(tmp_path / f"{name}.pt")


def test_torchscript_is_no_file_of_named_tensors(tmp_path: Path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(TokenizerError, match=r"a.pt is a TorchScript archive, and a file of named tensors is needed"):
        open_weights(tmp_path / "a.pt")
