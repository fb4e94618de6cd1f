"""TorchScript archives come through a door of their own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cosmos_tok.config import NotFiniteError, TokenizerError
from cosmos_tok.torchscript import load_archive


def test_a_network_is_read_and_what_is_none_is_named(tmp_path: Path):
    network = torch.nn.Linear(2, 3).train()
    path = tmp_path / "network.pt"
    torch.jit.script(network).save(str(path))
    loaded = load_archive(path)
    assert not loaded.training and torch.equal(loaded(torch.ones(2)), network(torch.ones(2)))
    torch.save(network.state_dict(), path)
    with pytest.raises(TokenizerError, match=r"is no TorchScript network: it holds what torch.save wrote"):
        load_archive(path)
    save_file(network.state_dict(), path)
    with pytest.raises(TokenizerError, match=r"is no TorchScript network: it holds safetensors"):
        load_archive(path)
    path.write_bytes(b"<html>")
    with pytest.raises(TokenizerError, match=r"network.pt is a web page"):
        load_archive(path)


def test_weights_that_are_not_finite_are_named(tmp_path: Path):
    network = torch.nn.Linear(2, 3)
    with torch.no_grad():
        network.bias[1] = torch.nan
    torch.jit.script(network).save(str(tmp_path / "network.pt"))
    with pytest.raises(NotFiniteError, match=r"network.pt: 1 of 3 numbers of bias are not finite"):
        load_archive(tmp_path / "network.pt")
