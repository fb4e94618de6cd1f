"""What is kept by key is found by key, whoever shares the folder, fills its disk, damages its files or is killed."""

import contextlib
import errno
import hashlib
import logging
import math
import multiprocessing
import os
import random
import resource
import threading
import time
from collections.abc import Callable
from itertools import product
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest
import torch

from cosmos_data import whole_file
from cosmos_data.caches import keyed_file, keyed_shards, shard_file
from cosmos_data.caches.key_index import KeyIndex
from cosmos_data.caches.keyed_shards import KeyedShards

FORK = multiprocessing.get_context("fork")
ROW_BYTES = 4 * 24
NUM_DAMAGES = 300


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def value(number: int) -> torch.Tensor:
    return torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(number))


def store_of(folder: Path, facts: str = "a", **changes) -> KeyedShards:
    return KeyedShards(folder, kind="test", facts={"tokenizer": facts}, **changes)


def fill(store: KeyedShards, numbers: range) -> None:
    for number in numbers:
        store.write(key(number), value(number))


def found(store: KeyedShards, numbers: range) -> list[int]:
    """Those of them that are there, which must be right."""
    kept = {number: store.read(key(number)) for number in numbers}
    assert all(one is None or torch.equal(one.value, value(number)) for number, one in kept.items())
    return [number for number, one in kept.items() if one is not None]


@pytest.fixture
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_shards, "LOOK_AGAIN_SEC", 0.0)
    monkeypatch.setattr(keyed_shards, "LOOK_SHARE", math.inf)


def test_what_was_gathered_and_what_was_written_is_found(tmp_path: Path):
    store, given = store_of(tmp_path), value(0)
    store.write(key(0), given, {"text": "rain", "dropped": 2})
    given.zero_()
    for place in (store, store, store_of(tmp_path)):
        kept = place.read(key(0))
        assert kept is not None and torch.equal(kept.value, value(0)) and kept.about == {"text": "rain", "dropped": 2}
        kept.value.zero_()
        store.flush()
    assert store.read(key(1)) is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_shard_holds_one_shape_and_type_and_any_number_of_rows(tmp_path: Path):
    store = store_of(tmp_path)
    values = [torch.ones(n, 3, dtype=dtype) * n for dtype, n in product((torch.float32, torch.bfloat16), (1, 2, 5))]
    values += [torch.arange(24, dtype=torch.int32).view(1, 2, 3, 4), torch.zeros(2, 8)]
    for number, one in enumerate(values):
        store.write(key(number), one)
    store.flush()
    assert len(list(tmp_path.iterdir())) == 4
    for number, one in enumerate(values):
        kept = store_of(tmp_path).read(key(number))
        assert kept is not None and kept.value.dtype == one.dtype and torch.equal(kept.value, one)


def test_a_shard_is_written_when_it_is_full_or_has_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = store_of(tmp_path, shard_bytes=4 * ROW_BYTES)
    fill(store, range(10))
    assert len(list(tmp_path.iterdir())) == 2 and found(store_of(tmp_path), range(10)) == list(range(8))
    monkeypatch.setattr(keyed_shards, "FLUSH_SEC", 0.0)
    assert store.read(key(77)) is None, "any use will do"
    assert found(store_of(tmp_path), range(10)) == list(range(10))


def test_the_same_keys_are_the_same_file(tmp_path: Path, look_always: None):
    """Of two that gathered them at the same time."""
    one, two = store_of(tmp_path), store_of(tmp_path)
    fill(one, range(3))
    fill(two, range(2, -1, -1))
    one.flush()
    [path] = tmp_path.iterdir()
    written = path.stat()
    two.flush()
    assert path.stat().st_ino == written.st_ino and len(list(tmp_path.iterdir())) == 1
    assert found(two, range(3)) == [0, 1, 2]


def test_shards_of_others_are_noticed_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keyed_shards, "LOOK_AGAIN_SEC", math.inf)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    one, two = store_of(tmp_path), store_of(tmp_path)
    listed.clear()
    assert found(two, range(3)) == []
    fill(one, range(3))
    one.flush()
    assert found(two, range(3)) == [] and len(listed) == 1, "it has looked just now"
    two._look_at_sec = 0.0  # as if the while were over
    assert found(two, range(3)) == [0, 1, 2]
    assert len(listed) == 2, "what is there asks for no look"


def test_other_facts_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """They are not even opened."""
    one, two = store_of(tmp_path, "a"), store_of(tmp_path, "b")
    for store in (one, two):
        fill(store, range(3))
        store.flush()
    opened: list[Path] = []
    open_shard = keyed_file.open_shard
    monkeypatch.setattr(
        keyed_file, "open_shard", lambda path, *rest, **named: opened.append(path) or open_shard(path, *rest, **named)
    )
    assert found(store_of(tmp_path, "b"), range(3)) == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2 and len(set(opened)) == 1 and not caplog.records


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_off_data(path: Path) -> None:
    """Also while it is open, and mapped by whoever maps it."""
    os.truncate(path, 100)


def change_a_byte(path: Path) -> None:
    """Of the first row in the file, which is not the one that was asked for first."""
    shard = shard_file.open_shard(path, "test")
    with path.open("r+b") as file:
        file.seek(shard.data_start + 1)
        file.write(b"\x77")


def put_another_there(path: Path) -> None:
    """Of another tokenizer, under the name of the first."""
    shard = shard_file.open_shard(path, "test")
    values = [-shard.tensor(row, torch.float32, (1, 4, 6)) for row in range(3)]
    rows = [
        shard.row(row) | {"crc32": keyed_file.crc32_of(shard.row(row)["key"], "{}", one)}
        for row, one in enumerate(values)
    ]
    with TemporaryDirectory() as name:
        other = Path(name) / path.name
        shard_file.write_shard(other, dict(shard.facts) | {"tokenizer": "b"}, keyed_file.SCHEMA, rows, values)
        path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("damage", [cut_off, cut_off_data, change_a_byte, put_another_there])
def test_a_damaged_shard_is_not_there(
    damage: Callable[[Path], None], is_open: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, look_always: None
):
    """It is named once, made again, and then there for all."""
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [path] = tmp_path.iterdir()
    if is_open:
        assert found(store, range(3)) == [0, 1, 2]
    else:
        store = store_of(tmp_path)
    damage(path)
    if damage is put_another_there:
        store = store_of(tmp_path)  # who has it open read it before
    for _ in range(3):
        kept = found(store, range(3))
        assert len(kept) < 3
    assert [record.getMessage().startswith(f"{path} is passed over") for record in caplog.records] == [True]
    fill(store, range(3))
    store.flush()
    assert found(store, range(3)) == found(store_of(tmp_path), range(3)) == [0, 1, 2]
    assert len(caplog.records) == 1


def damaged(content: bytes, seed: int) -> bytes:
    """Some bits flipped, a block of zeros, or the end missing; also all of it."""
    drawn, changed = random.Random(seed), bytearray(content)
    if seed % 3 == 0:
        return content[: drawn.randrange(len(content)) if seed else 0]
    if seed % 3 == 1:
        first_byte = drawn.randrange(len(content))
        end = min(len(content), first_byte + drawn.randrange(1, 64))
        changed[first_byte:end] = bytes(end - first_byte)
        return bytes(changed)
    for _ in range(drawn.randrange(1, 8)):
        changed[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def test_whatever_is_damaged_nothing_wrong_is_read(tmp_path: Path, look_always: None):
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [path] = tmp_path.iterdir()
    content, num_found = path.read_bytes(), 0
    for seed in range(NUM_DAMAGES):
        path.write_bytes(damaged(content, seed))
        num_found += len(found(store_of(tmp_path), range(3)))
    assert 0 < num_found < 2 * NUM_DAMAGES


def test_a_shape_that_changed_is_damage(tmp_path: Path):
    """It is a fact of the shard, of which one bit makes [4, 6] from [4, 2]."""
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    assert content.count(b'"shape": [4, 6]') == 2, "at the head and at the end of the file"
    path.write_bytes(content.replace(b'"shape": [4, 6]', b'"shape": [4, 2]'))
    assert store_of(tmp_path).read(key(0)) is None


def test_what_another_process_repairs_is_there_again(tmp_path: Path, look_always: None):
    """File systems give the new file the inode of the old one."""
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [path] = tmp_path.iterdir()
    content, store = path.read_bytes(), store_of(tmp_path)
    change_a_byte(path)
    assert len(found(store, range(3))) < 3
    told = path.stat()
    path.write_bytes(content)
    while path.stat().st_ctime_ns == told.st_ctime_ns:  # the kernel's clock has ticks
        os.utime(path)
    assert path.stat().st_ino == told.st_ino and found(store, range(3)) == [0, 1, 2]


def test_damage_is_of_the_file_that_was_read(tmp_path: Path, look_always: None):
    """It may have been replaced meanwhile."""
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    assert found(store, range(3)) == [0, 1, 2], "which opens it"
    change_a_byte(path)
    (tmp_path / "aside").write_bytes(content)
    (tmp_path / "aside").replace(path)
    assert found(store, range(3)) == [0, 1, 2]


def test_too_many_open_files_say_nothing_about_a_shard(tmp_path: Path, look_always: None):
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()

    def is_read() -> bool:
        said, newcomer, reader = Said(), store_of(tmp_path), store_of(tmp_path)
        assert found(reader, range(3)) == [0, 1, 2]
        reader._open.clear()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        assert found(reader, range(3)) == found(newcomer, range(3)) == []
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        assert found(reader, range(3)) == found(newcomer, range(3)) == [0, 1, 2]
        return ["just now" in text and "Too many open files" in text for text in said.texts] == [True, True]

    assert in_a_child(is_read) == 0


def test_a_folder_that_can_not_be_listed_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, look_always: None
):
    """Nothing is forgotten, and nothing evicted, before it can be listed again."""
    store = store_of(tmp_path, max_bytes=1)

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        fill(store, range(3))
        assert found(store, range(4)) == [0, 1, 2]
    [record] = caplog.records
    assert record.getMessage().endswith("can not be read just now, and is tried again: [Errno 5] Input/output error")
    fill(store, range(3, 4))
    assert not list(tmp_path.iterdir())


def test_what_is_evicted_as_soon_as_it_is_written_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    write_shard = keyed_shards.write_shard

    def evict(path: Path, *rest, **named) -> None:
        write_shard(path, *rest, **named)
        path.unlink()

    monkeypatch.setattr(keyed_shards, "write_shard", evict)
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    assert found(store, range(3)) == [] and not caplog.records


def test_what_goes_while_it_is_written_was_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(whole_file, "flush", Path.unlink)
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [record] = caplog.records
    assert record.getMessage().startswith("what is new is not kept")


def test_a_damaged_shard_of_a_faster_process_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """That of a cache which fills, not that of a finished one."""
    write_shard = keyed_shards.write_shard

    def come_second(path: Path, *rest, **named) -> None:
        path.write_text("half")
        write_shard(path, *rest, **named)

    monkeypatch.setattr(keyed_shards, "write_shard", come_second)
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    [record] = caplog.records
    assert record.getMessage().endswith(f"; {keyed_file.REMEDY}")


def test_a_shard_that_goes_while_it_is_opened_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()
    open_shard = keyed_file.open_shard

    def open_late(path: Path, *rest, **named) -> shard_file.ShardFile:
        path.unlink()
        return open_shard(path, *rest, **named)

    monkeypatch.setattr(keyed_file, "open_shard", open_late)
    assert found(store_of(tmp_path), range(3)) == [] and not caplog.records


def test_what_is_being_written_is_found_and_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Found by any thread, and awaited by whoever flushes."""
    store, happened = store_of(tmp_path), []
    begun, may_end = threading.Event(), threading.Event()
    write_shard = keyed_shards.write_shard

    def write_slowly(*arguments, **named) -> shard_file.ShardFile:
        begun.set()
        assert may_end.wait(60)
        happened.append("written")
        return write_shard(*arguments, **named)

    monkeypatch.setattr(keyed_shards, "write_shard", write_slowly)
    fill(store, range(3))
    writer = Thread(target=store.flush)
    flusher = Thread(target=lambda: (store.flush(), happened.append("flushed")))
    writer.start()
    assert begun.wait(60)
    assert found(store, range(3)) == [0, 1, 2]
    flusher.start()
    flusher.join(0.1)  # time to do it wrong
    may_end.set()
    for thread in (writer, flusher):
        thread.join(60)
    assert happened == ["written", "flushed"]


def test_keys_that_begin_alike(tmp_path: Path):
    store = store_of(tmp_path)
    keys = [key(0)[:16] + key(number)[16:] for number in range(3)]
    for number in range(2):
        store.write(keys[number], value(number))
        store.flush()
    for number in range(2):
        kept = store.read(keys[number])
        assert kept is not None and torch.equal(kept.value, value(number))
    assert store.read(keys[2]) is None


def test_few_shards_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keyed_shards, "NUM_OPEN", 2)
    store = store_of(tmp_path, shard_bytes=ROW_BYTES)
    fill(store, range(6))
    assert found(store, range(6)) == list(range(6))
    assert num_open(tmp_path) >= 2
    give_up_sec = time.monotonic() + 60
    while num_open(tmp_path) > 2:  # Arrow's threads let go of a file a moment after its last reader
        assert time.monotonic() < give_up_sec, f"{num_open(tmp_path)} files are open"
        time.sleep(0.01)


def num_open(folder: Path) -> int:
    """Files below the folder that this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by another thread of this process
            found += str(link.readlink()).startswith(str(folder))
    return found


def test_the_least_recently_used_shards_go(tmp_path: Path, look_always: None):
    """Whoever wrote them; whoever has them open sees them as never written."""
    probe = store_of(tmp_path / "probe")
    fill(probe, range(2))
    probe.flush()
    size = next((tmp_path / "probe").iterdir()).stat().st_size
    folder = tmp_path / "folder"
    one, two = (store_of(folder, max_bytes=5 * size) for _ in range(2))
    for first in range(0, 10, 2):
        fill(one, range(first, first + 2))
        one.flush()
        for age, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (age, age))
    assert found(one, range(10)) == found(two, range(10)) == list(range(10))
    for age, number in enumerate((4, 6, 8, 2, 0)):  # from the least recently used on
        path = two._path(two._names[next(two._index.find(int(key(number)[:16], 16)))[0]])
        os.utime(path, (age, age))
    two._written_bytes = 5 * size  # as if it had written much since it counted
    fill(two, range(10, 12))
    two.flush()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5 * keyed_shards.KEPT_SHARE * size
    for store in (one, two, store_of(folder)):
        assert store.read(key(99)) is None  # which has it look for what became of the shards that it has open
        assert found(store, range(12)) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_a_shard_that_is_read_stays(tmp_path: Path):
    store = store_of(tmp_path)
    fill(store, range(2))
    store.flush()
    [path] = tmp_path.iterdir()
    os.utime(path, (1, 1))
    store.read(key(0))
    used = path.stat().st_mtime_ns
    assert used > 10**18
    os.utime(path, (1, 1))
    store.read(key(1))
    assert path.stat().st_mtime_ns == 10**9, "it was marked just now"


def in_a_child(function: Callable[[], bool]) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = 0 if function() else 1
    finally:
        os._exit(code)


class Said(logging.Handler):
    """What the module logs, in a child that has no pytest."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        keyed_shards.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def test_a_folder_that_can_only_be_read():
    with TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        store = store_of(folder)
        fill(store, range(3))
        store.flush()
        [path] = folder.iterdir()
        path.chmod(0o444)
        folder.chmod(0o555)

        def is_read() -> bool:
            if os.geteuid() == 0:  # root may write everywhere
                os.seteuid(65534)
            said, reader = Said(), store_of(folder, max_bytes=10**6)
            for _ in range(2):
                assert found(reader, range(3)) == [0, 1, 2]
                fill(reader, range(3, 6))
                reader.flush()
            assert found(reader, range(6)) == [0, 1, 2] and list(folder.iterdir()) == [path]
            [text] = said.texts
            return text.startswith("what is new is not kept, and made each time: ") and "Permission denied" in text

        assert in_a_child(is_read) == 0
        folder.chmod(0o755)


def test_a_full_disk(tmp_path: Path):
    """Files may have 64 KiB, which the system refuses to pass as it does on a full disk."""
    store = store_of(tmp_path)
    fill(store, range(3))
    store.flush()

    def is_read() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        said, filler = Said(), store_of(tmp_path)
        for _ in range(2):
            filler.write(key(9), torch.zeros(2**16))
            filler.flush()
        assert filler.read(key(9)) is None and found(filler, range(3)) == [0, 1, 2]
        [text] = said.texts
        fill(filler, range(3, 6))  # there is room for these
        filler.flush()
        assert found(store_of(tmp_path), range(6)) == [0, 1, 2, 3, 4, 5] and len(list(tmp_path.iterdir())) == 2
        filler.write(key(9), torch.zeros(2**16))
        filler.flush()
        assert len(said.texts) == 2, "what fails after it went well is said again"
        return "can not be written (File too large); make room" in text

    assert in_a_child(is_read) == 0


def test_any_number_of_threads(tmp_path: Path):
    store = store_of(tmp_path, shard_bytes=5 * ROW_BYTES)
    wrong: list[int] = []

    def work(seed: int) -> None:
        numbers = list(range(60))
        random.Random(seed).shuffle(numbers)
        for number in numbers:
            kept = store.read(key(number))
            if kept is None:
                store.write(key(number), value(number))
                kept = store.read(key(number))
            if kept is None or not torch.equal(kept.value, value(number)):
                wrong.append(number)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    assert not wrong and found(store_of(tmp_path), range(60)) == list(range(60))


def fill_whole(folder: Path, numbers: range, max_bytes: int | None) -> None:
    store = store_of(folder, max_bytes=max_bytes, shard_bytes=4 * ROW_BYTES)
    for number in numbers:
        if store.read(key(number)) is None:
            store.write(key(number), value(number))
    store.flush()


def fill_until_told(folder: Path, numbers: range, num_shards: int, is_in_a_shard: Event) -> None:
    """To be killed in the middle of the shard after so many, when that is written and has no name yet."""
    flush, written = whole_file.flush, 0

    def count(path: Path) -> None:
        nonlocal written
        written += path.name.endswith(whole_file.PARTIAL)
        if written > num_shards:
            is_in_a_shard.set()
            FORK.Event().wait()
        flush(path)

    whole_file.flush = count
    fill_whole(folder, numbers, None)


@pytest.mark.parametrize("num_shards", [0, 3])
def test_one_of_two_jobs_is_killed(num_shards: int, tmp_path: Path):
    """What it has written stays, what it was writing goes with the next start, and the other one ends."""
    event = FORK.Event()
    killed = FORK.Process(target=fill_until_told, args=(tmp_path, range(40), num_shards, event))
    other = FORK.Process(target=fill_whole, args=(tmp_path, range(39, -1, -1), None))
    killed.start()
    assert event.wait(300)
    other.start()
    killed.kill()
    for job in (killed, other):
        job.join(300)
    assert (killed.exitcode, other.exitcode) == (-9, 0)
    assert found(store_of(tmp_path), range(40)) == list(range(40))
    assert not list(tmp_path.glob(f".*{whole_file.PARTIAL}"))
    for path in tmp_path.iterdir():
        shard_file.open_shard(path, "test").verify()


def read_and_write(folder: Path, seed: int, max_bytes: int) -> None:
    store = store_of(folder, max_bytes=max_bytes)
    drawn = random.Random(seed)
    for _ in range(60):
        number = drawn.randrange(12)
        if not found(store, range(number, number + 1)):
            store.write(key(number), value(number))
    store.flush()


def test_two_jobs_evict_each_others_shards(tmp_path: Path, look_always: None):
    probe = store_of(tmp_path / "probe")
    fill(probe, range(1))
    probe.flush()
    size = next((tmp_path / "probe").iterdir()).stat().st_size
    jobs = [FORK.Process(target=read_and_write, args=(tmp_path / "folder", seed, 5 * size)) for seed in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(300)
        assert job.exitcode == 0
    files = list((tmp_path / "folder").iterdir())
    assert 0 < len(files) <= 6 and all(path.suffix == ".arrow" for path in files)


def test_ten_times_the_keys_cost_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A look-up of what is there searches a few runs, opens a shard and lists nothing; a key takes 16 bytes."""
    counts: dict[int, tuple[int, int]] = {}
    opened: list[Path] = []
    open_shard = keyed_file.open_shard
    for num_shards in (4, 40):
        folder = tmp_path / str(num_shards)
        store = store_of(folder, shard_bytes=25 * ROW_BYTES)
        fill(store, range(25 * num_shards))
        store = store_of(folder)
        assert store.read(key(0)) is not None
        with monkeypatch.context() as patch:
            patch.setattr(
                keyed_file, "open_shard", lambda path, *_, **__: opened.append(path) or open_shard(path, *_, **__)
            )
            patch.setattr(os, "scandir", None)
            opened.clear()
            assert found(store, range(25)) == list(range(25))
            counts[num_shards] = len(opened), len(store._index.runs)
        assert store._index.num_bytes == 16 * 25 * num_shards
    assert counts[40][0] <= counts[4][0] <= 1 and counts[40][1] <= counts[4][1] + 4


def test_the_index_finds_what_a_dictionary_does():
    """Also keys that begin alike, in one shard or in several, and with shards that go."""
    drawn, index = random.Random(0), KeyIndex()
    wanted: dict[int, set[tuple[int, int]]] = {}
    for shard in range(200):
        starts = [drawn.randrange(40) + 2**63 for _ in range(drawn.randrange(12))]
        index.add(shard, np.array(starts, dtype=np.uint64))
        for row, start in enumerate(starts):
            wanted.setdefault(start, set()).add((shard, row))
        if shard % 3 == 0:
            gone = drawn.randrange(shard + 1)
            index.drop(gone)
            wanted = {start: {place for place in places if place[0] != gone} for start, places in wanted.items()}
        assert all(set(index.find(start)) == places for start, places in wanted.items())
    assert list(index.find(7)) == []
    assert len(index.runs) <= math.log2(1200)


def test_what_has_gone_leaves_the_index():
    """In a folder that is full each new shard takes the place of an old one."""
    index = KeyIndex()
    for shard in range(300):
        index.add(shard, np.arange(10, dtype=np.uint64) + shard)
        index.drop(shard - 3)
        assert len(index) < 300
