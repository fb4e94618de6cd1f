"""Tells by a video file's own structure whether it was cut off: the number of frames it announces proves little.

Files announce frames that an edit list leaves out, and writers of AVI announce any number. What can not be otherwise in
a whole file: its top-level parts, each of which says its size, end where the file ends.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cosmos_data.location import VideoFile

PartsOf = Callable[[BinaryIO, int, int], Iterator[tuple[str, int]]]
"""(open file, where it begins, its bytes) -> names and ends of its parts, in order."""
BOX_HEADER_BYTES = 8
LARGE_BOX_HEADER_BYTES = 16
"""The header of an MP4 box is so long where its size takes 64 bits."""


def missing_end(file: VideoFile, container: str) -> str | None:
    """Say what of the file's end is missing; None where nothing is, or its format does not tell.

    Args:
        container: FFmpeg's names of the file's format.
    """
    if container.startswith("mov,"):
        return _overhang(file, _mp4_parts)
    if container == "avi":
        return _overhang(file, _riff_parts)
    if container.startswith("matroska,"):
        return _overhang(file, _ebml_parts)
    return None


def _overhang(file: VideoFile, parts_of: PartsOf) -> str | None:
    with Path(file.path).open("rb") as stream:
        begin = file.offset_bytes or 0
        num_bytes = stream.seek(0, 2) - begin
        if file.size_bytes is not None:
            num_bytes = min(num_bytes, file.size_bytes)
        for name, end in parts_of(stream, begin, num_bytes):
            if end > num_bytes:
                return f"its part {name!r} ends at byte {end}, the file at byte {num_bytes}"
    return None


def _mp4_parts(stream: BinaryIO, begin: int, num_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield (name, where it ends) of each top-level box (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + BOX_HEADER_BYTES <= num_bytes:
        stream.seek(begin + at)
        header = stream.read(LARGE_BOX_HEADER_BYTES)
        size, name = int.from_bytes(header[:4], "big"), header[4:8].decode("latin-1")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size == 0:  # to the end of the file, wherever that is
            return
        if size < BOX_HEADER_BYTES or not name.isprintable():  # what follows the last box is no box
            return
        at += size
        yield name, at


def _riff_parts(stream: BinaryIO, begin: int, num_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield (name, where it ends) of each RIFF list of an AVI file; a large file has several."""
    at = 0
    while at + BOX_HEADER_BYTES <= num_bytes:
        stream.seek(begin + at)
        header = stream.read(BOX_HEADER_BYTES)
        if header[:4] != b"RIFF":
            return
        size = int.from_bytes(header[4:8], "little")
        if size == 0:  # a writer that was stopped before it knew
            return
        at += BOX_HEADER_BYTES + size + size % 2
        yield "RIFF", at - size % 2


def _ebml_parts(stream: BinaryIO, begin: int, num_bytes: int) -> Iterator[tuple[str, int]]:
    """Yield (name, where it ends) of a Matroska file's header and its segment, if that says its size (RFC 8794, 4 and
    5)."""
    at = 0
    for name, identifier in (("EBML", 0x1A45DFA3), ("Segment", 0x18538067)):
        stream.seek(begin + at)
        header = stream.read(12)
        if len(header) < 12 or int.from_bytes(header[:4], "big") != identifier or header[4] == 0:
            return
        # The leading zeros of a size's first byte say how many bytes follow it; all ones: not known at writing.
        num_size_bytes = 9 - header[4].bit_length()
        unknown = (1 << 7 * num_size_bytes) - 1
        size = int.from_bytes(header[4 : 4 + num_size_bytes], "big") & unknown
        if size == unknown:
            return
        at += 4 + num_size_bytes + size
        yield name, at
