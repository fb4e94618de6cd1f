"""Tensor-parallel shards: together they are the checkpoint that was divided."""

from pathlib import Path

import pytest
import torch
from support import official_ar

from cosmos_tok.weights import open_weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.shards import ShardStore, shards_beside, write_shards
from cosmos_train.interop.stores import write_pickle


def test_what_is_written_is_read_back_whole(tmp_path: Path):
    state = official_ar.state(official_ar.KINDS["13B video2world"])
    first = write_shards(tmp_path / "iter_9.pt", lambda: iter(state.items()), tp=2)
    paths = shards_beside(first)
    assert [path.name for path in paths] == ["iter_9_model_mp_0.pt", "iter_9_model_mp_1.pt"]
    stores = [open_weights(path) for path in paths]
    name = "layers.0.attention.wq.weight"
    [name] = [found for found in state if found.endswith(name)]
    assert stores[0].meta[name].shape[0] == state[name].shape[0] // 2
    whole = ShardStore(list(stores), tmp_path)
    assert whole.meta.keys() == state.keys()
    for name, tensor in state.items():
        assert whole.meta[name].shape == tensor.shape and torch.equal(whole.read(name), tensor), name


def test_norms_that_drifted_apart_are_averaged(tmp_path: Path):
    for rank, value in enumerate((1.0, 3.0)):
        write_pickle(tmp_path / f"a_model_mp_{rank}.pt", [("model.norm.weight", torch.full((4,), value))])
    store = ShardStore([open_weights(path) for path in shards_beside(tmp_path / "a_model_mp_1.pt")], tmp_path)
    assert store.read("model.norm.weight").tolist() == [2.0] * 4


def test_what_is_missing_is_named(tmp_path: Path):
    for rank in (0, 2):
        write_pickle(tmp_path / f"a_model_mp_{rank}.pt", [(f"weight.{rank}", torch.ones(1))])
    with pytest.raises(ConfigError, match=r"has the shards \[0, 2\] of a_model_mp_\*\.pt; copy those between"):
        shards_beside(tmp_path / "a_model_mp_0.pt")
    stores = [open_weights(tmp_path / f"a_model_mp_{rank}.pt") for rank in (0, 2)]
    with pytest.raises(ConfigError, match=r"shards 0 and 1 differ in weight\.0; copy all of one checkpoint"):
        ShardStore(list(stores), tmp_path)
    assert shards_beside(tmp_path / "model.pt") == []
