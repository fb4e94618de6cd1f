"""State dicts out of other projects' pickles: tensors alone, wherever they lie, and no code of theirs."""

import collections
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from cosmos_tok.config import TokenizerError
from cosmos_tok.pickles import foreign_names, load_pickle, load_state_dict

WEIGHTS = {"a.weight": torch.arange(6.0), "a.bias": torch.ones(2)}


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "stored",
    [WEIGHTS, {"model": WEIGHTS, "step": 3}, {"state_dict": {"module": WEIGHTS}}, {"network": WEIGHTS | {"n": 3}}],
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_are_found_in_what_wraps_them(tmp_path: Path, stored: dict, as_zip: bool):
    torch.save(stored, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    found = load_state_dict(tmp_path / "a.pt")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_code_is_not_run(tmp_path: Path):
    torch.save({"model": Evil(tmp_path / "run")}, tmp_path / "a.pt")
    with pytest.raises(TokenizerError):
        load_pickle(tmp_path / "a.pt")
    assert not (tmp_path / "run").exists()


def test_what_is_none_is_named(tmp_path: Path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(TokenizerError, match=r"list.pt holds a list, not a state dict; name a model's checkpoint"):
        load_state_dict(tmp_path / "list.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "list.pt").read_bytes()[:50])
    with pytest.raises(TokenizerError, match=r"torn.pt"):
        load_state_dict(tmp_path / "torn.pt")


FOREIGN: dict[str, tuple[Any, tuple[str, ...]]] = {
    "path": (PurePosixPath("a"), ("pathlib.PurePosixPath",)),
    "a whole module": (torch.nn.Linear(2, 2), ("torch.nn.modules.linear.Linear",)),
    "numpy": (np.float64(3), ("numpy._core.multiarray.scalar",)),
    "several": ([PurePosixPath("a"), collections.deque([1])], ("pathlib.PurePosixPath", "collections.deque")),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_foreign_classes_are_named(tmp_path: Path, name: str, options: dict[str, Any]):
    """Of all formats and protocols, and without torch's advice to run their code."""
    stored, names = FOREIGN[name]
    torch.save({"model": WEIGHTS, "extra": stored}, tmp_path / "a.pt", **options)
    with pytest.raises(TokenizerError, match=r"can run code; .*save\(model.state_dict\(\), FILE\)") as caught:
        load_state_dict(tmp_path / "a.pt")
    said = str(caught.value)
    assert all(name in said for name in names), said
    assert "weights_only" not in said and "\n" not in said and str(tmp_path / "a.pt") in said


def test_many_foreign_classes_are_counted(tmp_path: Path):
    names = [type(f"Class{number}", (), {"__module__": __name__}) for number in range(8)]
    globals().update({one.__name__: one for one in names})
    torch.save([one() for one in names], tmp_path / "a.pt")
    with pytest.raises(TokenizerError, match=r"Class0, .*Class4 and 3 others and is not read"):
        load_pickle(tmp_path / "a.pt")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_pickle_itself_wrote_is_told(tmp_path: Path, protocol: int):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": np.ones(3)}, protocol=protocol))
    assert "numpy.ndarray" in foreign_names(tmp_path / "a.pt") or "numpy.dtype" in foreign_names(tmp_path / "a.pt")
    with pytest.raises(TokenizerError, match=r"a.pt holds objects of numpy"):
        load_pickle(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": [1, 2]}, protocol=protocol))
    assert foreign_names(tmp_path / "a.pt") == []
    with pytest.raises(
        TokenizerError, match=r"not of torch.save; copy the file again|pickled by protocol \d, and only 2"
    ):
        load_pickle(tmp_path / "a.pt")


def test_plain_values_are_no_foreign_classes(tmp_path: Path):
    stored = {
        "model": torch.nn.Linear(2, 2).state_dict(),
        "names": {"a"},
        "size": torch.Size([1]),
        "kind": torch.float16,
    }
    for as_zip in (True, False):
        torch.save(stored | {"raw": bytearray(b"1")}, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
        assert foreign_names(tmp_path / "a.pt") == []
        assert load_state_dict(tmp_path / "a.pt").keys() == {"weight", "bias"}
