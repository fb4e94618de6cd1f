"""Tensors kept by the SHA-256 of what they are a function of, on shards that any number of processes fill together.

    FOLDER/<of kind and facts>-<of its keys>.arrow      one shape and type, rows in the order of their keys

What is written is gathered, and becomes a shard when there is enough of it, when it has waited long, and at `flush`: a
process that is killed loses what it had gathered. A process finds the shards of others by listing the folder where
something is missing. Two processes may keep the same key, which costs room and nothing else. Where the folder would
hold more than `max_bytes`, shards go that were not read for the longest time; a reader sees one that has gone as one
that never was. So it sees a damaged one, which the log names. What the system can not do just now (too many open
files, a server that does not answer) says nothing about a shard: it is a miss, and tried again. From a folder that can
not be written to, what is there is read.

A row has a checksum, also of its shape, which is compared whenever it is read; comparing a shard's SHA-256 would read
all of it for one row. Data are read and not mapped: where a mapped file is cut off, or removed by another node, its
reader is killed.
"""

import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from cosmos_data.caches.key_index import KeyIndex
from cosmos_data.caches.keyed_file import (
    KEY_DIGITS,
    REMEDY,
    SCHEMA,
    FileIdentity,
    KeyedFile,
    KeyedRow,
    crc32_of,
    damage_told,
    identity_of,
    key_starts,
    of_system,
    open_checked,
)
from cosmos_data.caches.shard_file import SUFFIX, dtype_name, key_of, write_shard
from cosmos_data.errors import DataError, StorageError
from cosmos_data.whole_file import remove_abandoned

logger = logging.getLogger(__name__)

SHARD_BYTES = 256 * 2**20
SHARDS_OF_LIMIT = 20
"""A shard is at most this part of `max_bytes`: an eviction takes little more than it must."""

FLUSH_SEC = 60.0
"""What was gathered so long ago is written at the next use, however little it is."""

LOOK_AGAIN_SEC = 5.0
LOOK_SHARE = 0.01
"""Of a process's time, that listing the folder may take: with many shards it is listed less often."""

NUM_OPEN = 128
"""Shards that a process keeps open."""

KEPT_SHARE = 0.9
"""Of `max_bytes`, that an eviction leaves: then there is not one after every shard."""

RECOUNT_SHARE = 0.02
"""Of `max_bytes`, that a process writes before it looks again what others have written: n processes together pass the
limit by n times that, or n shards, at most."""

FORMAT = 2
"""To be raised when older shards can not be read any more."""


@dataclass(slots=True)
class _Gathered:
    """Of one shape and type, not written yet."""

    rows: dict[str, KeyedRow] = field(default_factory=dict)
    num_bytes: int = 0
    since_sec: float = field(default_factory=time.monotonic)


def _is_overdue(gathered: _Gathered) -> bool:
    return time.monotonic() - gathered.since_sec >= FLUSH_SEC


class KeyedShards:
    """Keeps tensors on the shards of one kind and with the same facts, beside which others may lie.

    Any number of threads may use it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: str,
        facts: Mapping[str, Any],
        max_bytes: int | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Open the folder, which need not exist.

        facts: what all values depend on, in values that JSON knows. max_bytes: of all shards in the folder, whoever
        wrote them; None: no limit. shard_bytes: that make a shard, fewer where the limit is low.
        """
        self.folder, self._kind = folder, kind
        self._facts = json.loads(json.dumps(facts))
        self._prefix = f"{key_of([FORMAT, kind, self._facts])[:16]}-"
        self._max_bytes = max_bytes
        self._shard_bytes = shard_bytes if max_bytes is None else min(shard_bytes, max_bytes // SHARDS_OF_LIMIT)
        self._lock = Lock()
        """Of all that follows, but for what is of the disk."""
        self._gathered: dict[tuple[Any, ...], _Gathered] = {}
        self._leaving: list[_Gathered] = []
        """What is being written."""
        self._index = KeyIndex()
        self._names: list[str] = []
        """Of each shard by its number, also of those that have gone."""
        self._numbers: dict[str, int] = {}
        """By name, of those in the index."""
        self._damaged: dict[str, FileIdentity] = {}
        """By name."""
        self._open: OrderedDict[int, KeyedFile] = OrderedDict()
        self._look_at_sec = -float("inf")
        self._disk = Lock()
        """One shard is written at a time."""
        self._is_told = False
        """That shards can not be written."""
        self._told_errors: set[int | None] = set()
        """Numbers of the system's errors, of each of which the log speaks once."""
        remove_abandoned(folder)
        self._counted_bytes = max_bytes or 0
        """Before they were ever counted it may be all."""
        self._written_bytes = 0
        """Since they were counted."""

    def read(self, key: str) -> KeyedRow | None:
        """Return what was written under the key, in the caller's own memory; None where it is not there, or damaged."""
        self._write_due(_is_overdue)
        with self._lock:
            for gathered in (*self._gathered.values(), *self._leaving):
                if key in gathered.rows:
                    value, about = gathered.rows[key]
                    return KeyedRow(value.clone(), about)
        found = self._find(key)
        if found is None:
            self._look()  # or another thread has, meanwhile
            found = self._find(key)
        return found

    def write(self, key: str, value: Tensor, about: Mapping[str, Any] | None = None) -> None:
        """Keep a copy of a value [n, *shape]. Where it can not be kept, the log says so, once until one is again."""
        assert len(key) == KEY_DIGITS and value.ndim, f"{key!r} is no SHA-256, or {tuple(value.shape)} no rows"
        kept = KeyedRow(value.detach().cpu().clone(memory_format=torch.contiguous_format), dict(about or {}))
        with self._lock:
            gathered = self._gathered.setdefault((value.dtype, *value.shape[1:]), _Gathered())
            if key not in gathered.rows:
                gathered.rows[key] = kept
                gathered.num_bytes += kept.value.nbytes
        self._write_due(lambda gathered: gathered.num_bytes >= self._shard_bytes or _is_overdue(gathered))

    def flush(self) -> None:
        """Write what was gathered; what another thread is writing is written then, too."""
        with self._disk:
            self._write_all(lambda gathered: True)

    def _write_due(self, is_due: Callable[[_Gathered], bool]) -> None:
        with self._lock:
            if not any(is_due(gathered) for gathered in self._gathered.values()):
                return
        with self._disk:
            self._write_all(is_due)

    def _write_all(self, is_due: Callable[[_Gathered], bool]) -> None:
        with self._lock:
            due = [shape for shape, gathered in self._gathered.items() if is_due(gathered)]
            self._leaving = [self._gathered.pop(shape) for shape in due]
            leaving = self._leaving
        try:
            for gathered in leaving:
                self._keep(gathered.rows)
        finally:
            with self._lock:
                self._leaving = []

    def _keep(self, rows: Mapping[str, KeyedRow]) -> None:
        keys = sorted(rows)
        name = f"{self._prefix}{key_of(keys)}"
        path = self.folder / f"{name}{SUFFIX}"
        kept = [rows[key] for key in keys]
        texts = [json.dumps(one.about, sort_keys=True) for one in kept]
        index = [
            {"key": key, "about": text, "crc32": crc32_of(key, text, one.value)}
            for key, text, one in zip(keys, texts, kept, strict=True)
        ]
        facts = self._facts | {
            "kind": self._kind,
            "key": name,
            "shape": list(kept[0].value.shape[1:]),
            "dtype": dtype_name(kept[0].value.dtype),
        }
        try:
            if name in self._damaged:
                path.unlink(missing_ok=True)
            if not path.exists():  # else another process was faster
                write_shard(path, facts, SCHEMA, index, [one.value for one in kept], remedy=REMEDY)
            with self._lock:
                self._damaged.pop(name, None)
                self._add(name)
            num_bytes = path.stat().st_size
        except (DataError, OSError) as error:
            if not isinstance(error, StorageError) and isinstance(of_system(error), FileNotFoundError):
                return  # written, and evicted by another process
            if not self._is_told:
                logger.warning("what is new is not kept, and made each time: %s", error)
            self._is_told = True
            return
        self._is_told = False
        self._limit(num_bytes)

    def _find(self, key: str) -> KeyedRow | None:
        with self._lock:
            places = list(self._index.find(int(key[:16], 16)))
        for number, row in places:
            found = self._read_row(number, row, key)
            if found is not None:
                return found
        return None

    def _read_row(self, number: int, row: int, key: str) -> KeyedRow | None:
        """Return a row; None where it has another key, or the shard is gone or damaged, or can not be read just now."""
        try:
            with damage_told():
                shard = self._opened(number)
                return shard.read(row) if shard.key(row) == key else None
        except FileNotFoundError:
            self._forget(number)  # evicted by another process
        except DataError as error:
            self._set_aside(number, error)
        except OSError as error:
            with self._lock:
                self._open.pop(number, None)  # what a server has forgotten can be opened anew
            self._tell_error(error)
        return None

    def _opened(self, number: int) -> KeyedFile:
        with self._lock:
            shard = self._open.get(number)
            if shard is None:
                shard = self._open[number] = KeyedFile(self._path(self._names[number]), self._kind, self._facts)
            self._open.move_to_end(number)
            if len(self._open) > NUM_OPEN:
                self._open.popitem(last=False)
            shard.mark_as_used()
            return shard

    def _look(self) -> None:
        """Find the shards that others wrote, or removed, where it is time for that."""
        with self._lock:
            started_sec = time.monotonic()
            if started_sec < self._look_at_sec:
                return
            try:
                found = {Path(entry).stem for entry in self._entries(self._prefix)}
            except OSError as error:
                self._look_at_sec = started_sec + LOOK_AGAIN_SEC
                self._tell_error(error)
                return
            took_sec = time.monotonic() - started_sec
            self._look_at_sec = started_sec + max(LOOK_AGAIN_SEC, took_sec / LOOK_SHARE)
            for name in self._numbers.keys() - found:
                self._remove(self._numbers[name])
            for name in found - self._numbers.keys():
                self._add(name)

    def _add(self, name: str) -> None:
        """Put its keys into the index, where they are not there. It is called under the lock."""
        if name in self._numbers:
            return
        number, path = len(self._names), self._path(name)
        try:
            identity = identity_of(path.stat())
            if self._damaged.get(name) == identity:
                return
            try:
                with damage_told():
                    starts_N = key_starts(open_checked(path, self._kind, self._facts))
            except DataError as error:
                self._tell_damaged(name, identity, error)
                return
        except FileNotFoundError:
            return  # evicted by another process
        except OSError as error:
            self._tell_error(error)
            return
        self._names.append(name)
        self._numbers[name] = number
        self._index.add(number, starts_N)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._remove(number)

    def _remove(self, number: int) -> None:
        """Take it from the index. It is called under the lock."""
        self._index.drop(number)
        self._open.pop(number, None)
        name = self._names[number]
        if self._numbers.get(name) == number:  # else another shard of that name is there by now
            del self._numbers[name]

    def _set_aside(self, number: int, error: Exception) -> None:
        with self._lock:
            name = self._names[number]
            if self._numbers.get(name) != number:
                return  # another thread was faster
            shard = self._open.get(number)
            self._remove(number)
            try:
                identity = identity_of(self._path(name).stat()) if shard is None else shard.identity()
            except FileNotFoundError:
                return  # evicted by another process
            except OSError as passing:
                self._tell_error(passing)
                return
            self._tell_damaged(name, identity, error)

    def _tell_damaged(self, name: str, identity: FileIdentity, error: Exception) -> None:
        if name not in self._damaged:
            logger.warning("%s is passed over, and what it held is made again: %s", self._path(name), error)
        self._damaged[name] = identity

    def _tell_error(self, error: OSError) -> None:
        if error.errno not in self._told_errors:
            logger.warning("%s can not be read just now, and is tried again: %s", self.folder, error)
        self._told_errors.add(error.errno)

    def _limit(self, num_bytes: int) -> None:
        """Evict what is too much, after so many bytes were written. It counts anew, because other processes write and
        evict too."""
        if self._max_bytes is None:
            return
        self._written_bytes += num_bytes
        is_full = self._counted_bytes + self._written_bytes > self._max_bytes
        if is_full or self._written_bytes > RECOUNT_SHARE * self._max_bytes:
            try:
                self._counted_bytes, self._written_bytes = self._evict(self._max_bytes), 0
            except OSError as error:  # tried again after the next shard
                self._tell_error(error)

    def _evict(self, max_bytes: int) -> int:
        """Evict shards, and return how many bytes are left in the folder."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        if left <= max_bytes:
            return left
        for _, size, path in files:
            if left <= KEPT_SHARE * max_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
            with self._lock:
                if path.stem in self._numbers:
                    self._remove(self._numbers[path.stem])
        return left

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return (time of last use, bytes, path) of each shard in the folder, of whatever kind."""
        found = []
        for entry in self._entries():
            with suppress(FileNotFoundError):  # another process evicts
                stat = entry.stat()
                found.append((stat.st_mtime_ns, stat.st_size, Path(entry)))
        return found

    def _entries(self, prefix: str = "") -> list[os.DirEntry[str]]:
        """Raises OSError where the folder is there and can not be listed, which does not make it empty."""
        try:
            with os.scandir(self.folder) as entries:
                return [entry for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(SUFFIX)]
        except (FileNotFoundError, NotADirectoryError):
            return []  # not there yet, or nowhere, which is said where a shard is written

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"
