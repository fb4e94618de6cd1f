"""State dicts out of other projects' pickles: tensors alone, wherever they lie, and no code of theirs."""

import os
from pathlib import Path

import pytest
import torch

from cosmos_tok.config import TokenizerError
from cosmos_tok.pickles import load_pickle, load_state_dict

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
