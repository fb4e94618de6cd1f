"""Where a video's bytes lie: a whole file, or a member of a tar shard, read in place."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class VideoFile:
    path: str
    offset_bytes: int | None = None
    """First byte of the member in the tar; None: the file as a whole."""

    size_bytes: int | None = None

    @property
    def url(self) -> str:
        """Return what FFmpeg opens. A member is read through its `subfile` protocol, without a copy."""
        if self.offset_bytes is None or self.size_bytes is None:
            return f"file:{self.path}"  # a name with a colon is not taken for a protocol
        return f"subfile,,start,{self.offset_bytes},end,{self.offset_bytes + self.size_bytes},,:{self.path}"

    def read_bytes(self) -> bytes:
        """Return all bytes, fewer than there should be where the shard was cut off."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset_bytes or 0)
            return file.read(-1 if self.size_bytes is None else self.size_bytes)

    def read_head(self, num_bytes: int) -> bytes:
        """Return the first bytes, or all of them where there are fewer."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset_bytes or 0)
            return file.read(num_bytes if self.size_bytes is None else min(num_bytes, self.size_bytes))

    def sha256(self) -> str:
        """Return the digest of the bytes, read in pieces."""
        if self.size_bytes is None:
            return file_sha256(self.path)
        sha256 = hashlib.sha256()
        with Path(self.path).open("rb") as file:
            file.seek(self.offset_bytes or 0)
            left = self.size_bytes
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                sha256.update(chunk)
                left -= len(chunk)
        return sha256.hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the digest of a whole file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
