"""A model with adapters in it, put together a tensor at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny_lora import HeldTensors

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.adapters import (
    FILE,
    AdaptedTensors,
    AdapterFacts,
    Adapters,
    DigestedTensors,
    LowRank,
    TrainedOnBase,
    adapters_of_run,
    tensor_digest,
)
from cosmos_train.interop.names import Entry

ENTRY = Entry("net.qkv.weight", {"q": (4, 5), "k": (2, 5)}, turns=2)
"""Two turns of two rows of q and one of k."""


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


FACTS = AdapterFacts(rank=3, alpha=6.0, targets=("*",), base="there", base_tensors={})
RUN = HeldTensors({"net.qkv.lora.a": drawn(6, 5), "net.qkv.lora.b": drawn(6, 3), "net.other.weight": drawn(2, 2)})


def test_those_of_joined_matrices_are_each_matrix_its_own():
    """Rows of B take turns as those of the matrix do; each one has an A."""
    found = adapters_of_run(RUN, FACTS, [ENTRY], Path("run"))
    a, b = RUN.read("net.qkv.lora.a"), RUN.read("net.qkv.lora.b")
    torch.testing.assert_close(found.matrices["q"].product(), 2.0 * b[[0, 1, 3, 4]] @ a[:3])
    torch.testing.assert_close(found.matrices["k"].product(), 2.0 * b[[2, 5]] @ a[3:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_are_added_at_once_in_32_bits(dtype: torch.dtype):
    """Each with its strength; a matrix without an adapter beside one that has one stays as it is."""
    base = drawn(6, 5).to(dtype)
    one = adapters_of_run(RUN, FACTS, [ENTRY], Path("run"))
    other = Adapters(matrices={"k": LowRank(drawn(4, 5), drawn(2, 4), 0.5)}, where="file", strength=-3.0)
    store = AdaptedTensors(HeldTensors({ENTRY.ours: base}), [ENTRY], [one, other])
    q, k = ENTRY.split(base.double())
    q = q + one.matrices["q"].product()
    k = k + one.matrices["k"].product() - 1.5 * drawn(2, 4).double() @ drawn(4, 5).double()
    torch.testing.assert_close(store.read(ENTRY.ours), ENTRY.join([q, k]).to(dtype))


def test_a_tensor_without_adapters_is_the_same():
    store = AdaptedTensors(HeldTensors({"other": drawn(3, 3)}), [ENTRY], [])
    assert torch.equal(store.read("other"), drawn(3, 3))


def test_another_base_is_an_error():
    facts = replace(FACTS, base_tensors={"x": tensor_digest(drawn(6, 5))})
    of_base = HeldTensors({"x": drawn(6, 5), "net.other.weight": drawn(2, 2) + 1})
    found = TrainedOnBase(of_base, RUN, facts, Path("here"))
    assert torch.equal(found.read("x"), drawn(6, 5)) and torch.equal(found.read("net.other.weight"), drawn(2, 2))
    assert found.meta.keys() == {"x", "net.other.weight"}
    other = TrainedOnBase(HeldTensors({"x": drawn(6, 5) + 1}), RUN, facts, Path("here"))
    with pytest.raises(ConfigError, match=r"^here is not the model .* which lay at there: x differs"):
        other.read("x")


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
