"""A shard is complete under its name, or absent, whatever happens to who writes it."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
import torch

from cosmos_data.caches.shard_file import (
    ShardFile,
    key_of,
    open_shard,
    write_shard,
    written,
)
from cosmos_data.errors import DataError, StorageError

SCHEMA = pa.schema([pa.field("name", pa.string())])
KEY = key_of(["a", 1])


def write(folder: Path, data: list[torch.Tensor] | None = None) -> ShardFile:
    tensors = [torch.arange(3.0), torch.ones(2, 2)] if data is None else data
    rows = [{"name": str(number)} for number in range(len(tensors))]
    return write_shard(folder / f"{KEY}.arrow", {"kind": "test", "key": KEY}, SCHEMA, rows, tensors)


def test_rows_and_tensors_come_back(tmp_path: Path):
    shard = write(tmp_path)
    assert len(shard) == 2 and shard.row(1) == {"name": "1"}
    assert torch.equal(shard.tensor(0, torch.float32, (3,)), torch.arange(3.0))
    assert torch.equal(shard.tensor(1, torch.float32, (-1, 2)), torch.ones(2, 2))
    shard.verify()
    assert [path.name for path in tmp_path.iterdir()] == [f"{KEY}.arrow"]


def test_the_same_content_is_the_same_file(tmp_path: Path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert one.path.read_bytes() == two.path.read_bytes() and one.digest == two.digest
    assert write(tmp_path / "one").digest == one.digest, "whoever comes second finds the same"


def test_one_key_with_other_bytes(tmp_path: Path):
    kept = write(tmp_path).path.read_bytes()
    with pytest.raises(DataError, match="is there with other bytes, although its name says that it was"):
        write(tmp_path, [torch.arange(3.0), torch.zeros(2, 2)])
    [path] = tmp_path.iterdir()
    assert path.read_bytes() == kept


def test_torn_shards(tmp_path: Path):
    path = write(tmp_path).path
    content = path.read_bytes()
    for torn in (b"", content[:100], content[: len(content) // 2], content[:-1], b"text", content[8:]):
        path.write_bytes(torn)
        with pytest.raises(DataError, match="is no shard, or was cut off"):
            open_shard(path, "test")
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds another shard than its name says"):
        open_shard(path, "latents")
    path.unlink()
    with pytest.raises(DataError, match="is missing; remove it, and index"):
        open_shard(path, "test")


def in_a_child(function: Callable[[], bool]) -> int:
    """The exit code of a forked process that calls it: what it sets for itself ends with it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = 0 if function() else 1
    finally:
        os._exit(code)


def test_a_full_disk(tmp_path: Path):
    """Files may have 64 KiB, which the system refuses to pass as it does on a full disk."""

    def fills() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        with pytest.raises(StorageError, match=r"can not be written \(File too large\); make room, and start the same"):
            write(tmp_path, [torch.zeros(2**16)])
        return not list(tmp_path.iterdir())

    assert in_a_child(fills) == 0
    assert not StorageError.input_is_wrong


def test_a_folder_of_somebody_else():
    with TemporaryDirectory() as name:  # not pytest's, which only the user may enter
        Path(name).chmod(0o755)
        theirs = Path(name) / "theirs"
        theirs.mkdir(mode=0o555)

        def is_refused() -> bool:
            if os.geteuid() == 0:  # root may write everywhere
                os.seteuid(65534)
            with pytest.raises(DataError, match=r"not be written \(Permission denied\); name another folder") as caught:
                write(theirs)
            return caught.value.input_is_wrong and not list(theirs.iterdir())

        assert in_a_child(is_refused) == 0


def test_a_file_in_the_place_of_the_folder(tmp_path: Path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(DataError, match=r"can not be written .*; name another folder"):
        write(tmp_path / "folder")


def test_nothing_is_left_of_a_failure(tmp_path: Path):
    with pytest.raises(StorageError, match="No space left on device"), written(tmp_path / "file") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyboardInterrupt), written(tmp_path / "file") as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
