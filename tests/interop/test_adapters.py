"""A model with adapters in it, put together a tensor at a time."""

from pathlib import Path

import pytest
import torch
from support.tiny_lora import HeldTensors

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.adapters import FILE, AdaptedTensors, AdapterFacts, DigestedTensors, product, tensor_digest
from cosmos_train.interop.names import Entry

ENTRY = Entry("net.qkv.weight", {"q": (4, 5), "k": (2, 5)}, turns=2)
"""Two turns of two rows of q and one of k."""


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_joined_matrices_have_each_their_own_product():
    a, b = drawn(2 * 3, 5), drawn(6, 3)
    q, k = ENTRY.split(product(a, b, ENTRY))
    b_q, b_k = Entry("b", {"q": (4, 3), "k": (2, 3)}, turns=2).split(b)
    torch.testing.assert_close(q, b_q @ a[:3])
    torch.testing.assert_close(k, b_k @ a[3:])


def adapted(base: torch.Tensor, digest: str) -> AdaptedTensors:
    facts = AdapterFacts(rank=3, alpha=6.0, targets=("*",), base="there", base_tensors={ENTRY.ours: digest})
    trained = {"net.qkv.lora.a": drawn(6, 5), "net.qkv.lora.b": drawn(6, 3)}
    store, given = HeldTensors({ENTRY.ours: base}), HeldTensors(trained)
    return AdaptedTensors(store, given, facts, [ENTRY], base_path=Path("here"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_added_once_in_32_bits(dtype: torch.dtype):
    base = drawn(6, 5).to(dtype)
    found = adapted(base, tensor_digest(base)).read(ENTRY.ours)
    wanted = base.double() + 2.0 * product(drawn(6, 5).double(), drawn(6, 3).double(), ENTRY)
    torch.testing.assert_close(found, wanted.to(dtype))
    assert found.dtype == dtype


def test_another_base_is_an_error():
    with pytest.raises(ConfigError, match=r"^here is not the model .* which lay at there: net\.qkv\.weight differs"):
        adapted(drawn(6, 5), tensor_digest(drawn(6, 5) + 1)).read(ENTRY.ours)


def test_digests_are_of_type_shape_and_values():
    one = drawn(2, 6)
    others = (one.double(), one.reshape(3, 4), -one, one.view(torch.int32))
    assert len({tensor_digest(other) for other in (one, *others)}) == 5
    digested = DigestedTensors(HeldTensors({"x": one}))
    assert torch.equal(digested.read("x"), one) and digested.digests == {"x": tensor_digest(one)}


def test_facts_come_back(tmp_path: Path):
    facts = AdapterFacts(rank=4, alpha=8.0, targets=("*.q", "*.k"), base="a/b", base_tensors={"x": "0"})
    (tmp_path / FILE).write_text(facts.to_json())
    assert AdapterFacts.read(tmp_path) == facts and facts.scale == 2
    (tmp_path / FILE).write_text('{"format": "cosmos-train adapters 9"}')
    with pytest.raises(ConfigError, match="is not of format 'cosmos-train adapters 1'; use a newer"):
        AdapterFacts.read(tmp_path)
    with pytest.raises(ConfigError, match="says how strong they are; restore it"):
        AdapterFacts.read(tmp_path / "nowhere")
