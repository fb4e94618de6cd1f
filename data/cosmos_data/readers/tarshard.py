"""Tar shards: which members a shard has and where their bytes lie, so that they are read in place; and writing them.

A shard is hostile until shown otherwise: a name that leads out of the folder it would be unpacked in (absolute, or with
`..`) and anything that is no plain file is refused by name. Nothing is ever unpacked.
"""

import io
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in a shard."""

    name: str
    file: VideoFile

    @property
    def key(self) -> str:
        """Return the key of the sample that the member belongs to: by WebDataset's rule the name up to the first dot of
        its last part."""
        path = PurePosixPath(self.name)
        return (path.parent / path.name.partition(".")[0]).as_posix()

    @property
    def suffix(self) -> str:
        """Return what stands behind that dot, with it; what follows the last dot in small letters."""
        first, dot, last = PurePosixPath(self.name).name.partition(".")[2].rpartition(".")
        return f".{first}{dot}{last.lower()}"


def read_members(path: Path) -> Iterator[Member]:
    """Yield the plain files of a shard, in their order.

    Raises:
        DataError: it is no tar, is cut off, or a member is refused.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            while True:
                with tarfile.TarFile(fileobj=file) as tar:
                    yield from _members_of(tar, path, size_bytes)
                    end = tar.offset
                file.seek(end)
                # tarfile takes a damaged header for the end; the real end is a block of zeros.
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise DataError(f"{path}: it is cut off or damaged at byte {end}; copy the shard again")
                if not _next_archive(file):
                    return
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: it is no tar, or damaged ({error}); copy the shard again") from error


def _members_of(tar: tarfile.TarFile, path: Path, size_bytes: int) -> Iterator[Member]:
    for member in tar:
        if fault := name_fault(member.name):
            raise DataError(f"{path}: member {member.name!r} {fault}; pack the shard again without it")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise DataError(f"{path}: member {member.name!r} is a link or a device; pack the shard again")
        if member.offset_data + member.size > size_bytes:
            raise DataError(f"{path}: it is cut off within member {member.name!r}; copy the shard again")
        yield Member(member.name, VideoFile(str(path), member.offset_data, member.size))


def _next_archive(file: BinaryIO) -> bool:
    """Go to the next block that is not zeros: people join tars with cat, and each of them ends with zeros."""
    while block := file.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0"):
            file.seek(-len(block), io.SEEK_CUR)
            return True
    return False


def name_fault(name: str) -> str | None:
    """Return why a member's name is refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or name[1:2] == ":":
        return "has an absolute name"
    if ".." in path.parts:
        return "has a name that leads out of its folder"
    # Bytes that are not UTF-8 come as surrogates; what uses the name refuses it.
    is_printable = all(letter.isprintable() or "\udc80" <= letter <= "\udcff" for letter in name)
    return None if name.strip() and is_printable else "has an empty name, or a control character in it"


def grouped(members: Iterable[Member], key_of: Callable[[Member], str] | None = None) -> dict[str, list[Member]]:
    """Return members by key, in the order in which the keys come first; those of one key need not stand together.

    key_of: gives a member's key (None: WebDataset's rule).
    """
    groups = defaultdict[str, list[Member]](list)
    for member in members:
        groups[member.key if key_of is None else key_of(member)].append(member)
    return groups


class ShardWriter:
    """Fills `folder/shard-000000.tar`, ...: a new shard begins where the next sample would pass `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._tar: tarfile.TarFile | None = None
        self._num_shards = 0

    def add(self, files: Mapping[str, bytes]) -> dict[str, VideoFile]:
        """Write the files of one sample, by name, into one shard, and return where each of them lies."""
        size_bytes = sum(len(content) for content in files.values())
        if self._tar is not None and self._tar.offset + size_bytes > self._max_bytes:
            self.close()
        if self._tar is None:
            path = self._folder / f"shard-{self._num_shards:06d}.tar"
            self._tar = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)
            self._num_shards += 1
        places = {}
        for name, content in files.items():
            info = tarfile.TarInfo(name)  # owner, time and mode are always the same: equal clips give equal shards
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
            padded = -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[name] = VideoFile(str(self._tar.name), self._tar.offset - padded, info.size)
        return places

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
