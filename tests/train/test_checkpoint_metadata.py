"""A checkpoint from outside is read without running what its pickled metadata asks for."""

import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader

from cosmos_train.interop.stores import CheckpointStore
from cosmos_train.train.checkpoint_folder import CheckpointError
from cosmos_train.train.checkpoint_metadata import PlainReader

TENSORS = {"model.a": torch.arange(6.0).view(2, 3), "model.b": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is said that there is one process
        dcp.save(dict(TENSORS), checkpoint_id=tmp_path / "saved", no_dist=True)
        yield tmp_path / "saved"


class Mischief:
    """Unpickled, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_it_reads_what_upstream_reads(folder: Path):
    ours, theirs = PlainReader(folder).read_metadata(), FileSystemReader(folder).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata and ours.storage_data == theirs.storage_data
    store = CheckpointStore(folder, averaged=False)
    for name, tensor in TENSORS.items():
        assert torch.equal(store.read(name.removeprefix("model.")), tensor)


def test_code_is_not_run(folder: Path, tmp_path: Path):
    (folder / ".metadata").write_bytes(pickle.dumps(Mischief(f"touch {tmp_path}/ran")))
    for read in (PlainReader(folder).read_metadata, lambda: CheckpointStore(folder, averaged=False)):
        with pytest.raises(
            CheckpointError, match=r"\.metadata is damaged, or holds more .*: it asks for \w+\.system; "
        ):
            read()
    assert not (tmp_path / "ran").exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert (tmp_path / "ran").exists(), "it would have"


def test_a_damaged_one_is_told(folder: Path):
    content = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"\.metadata is damaged"):
        PlainReader(folder).read_metadata()
