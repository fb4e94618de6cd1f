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
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from cosmos_train.interop.stores import CheckpointStore
from cosmos_train.train.checkpoint.folder import CheckpointError
from cosmos_train.train.checkpoint.load import tensor_names
from cosmos_train.train.checkpoint.metadata import PlainReader, files_of

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


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95",
        b"(lp0\n0cno\nsuch\n",
        b"c\n\n.",
        b"I1x\n.",
        b"Vx\n\\u00\n.",
        b"h\x09.",
        b"\x80\xff.",
        pickle.dumps([1]),
        pickle.dumps(Metadata(state_dict_metadata=[], storage_data={})),  # pyright: ignore[reportArgumentType]
        pickle.dumps(Metadata(state_dict_metadata={}, storage_data={"name": 1})),
        pickle.dumps(Metadata(state_dict_metadata={"a": TensorStorageMetadata(None, None, None)}, storage_data={})),  # pyright: ignore[reportArgumentType]
    ],
    ids=repr,
)
def test_whatever_it_holds_it_is_our_error(folder: Path, content: bytes):
    (folder / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        files_of(folder, ["model"])
        tensor_names(folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("name", [".metadata", "metadata.json"])
def test_a_file_that_is_none_is_our_error(folder: Path, name: str):
    (folder / name).unlink(missing_ok=True)
    for make in (lambda path: None, Path.mkdir):
        make(folder / name)
        with pytest.raises(CheckpointError, match=str(folder)):
            files_of(folder, ["model"])
            tensor_names(folder)


def test_a_damaged_one_is_told(folder: Path):
    content = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"\.metadata is damaged"):
        PlainReader(folder).read_metadata()
