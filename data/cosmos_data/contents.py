"""This module tells what a file is by its first bytes, whatever its name says.

Signatures are those of the formats' own specifications; a text that stands in for a file (a Git LFS pointer, a web page
that was saved under the name of a video) is told by how it begins.
"""

import tarfile
from pathlib import Path
from typing import Literal, NamedTuple

from cosmos_data.location import VideoFile

HEAD_BYTES = 1024

Kind = Literal["video", "tar", "picture", "sound", "archive", "stand-in", "text", "empty", "unknown"]


class Content(NamedTuple):
    kind: Kind
    what: str
    """In words that follow "it is"."""


VIDEO = Content("video", "a video")
PICTURE = Content("picture", "a picture")
SOUND = Content("sound", "sound without pictures")
TAR = Content("tar", "a tar")
EMPTY = Content("empty", "empty: it has zero bytes")
TEXT = Content("text", "a text")
UNKNOWN = Content("unknown", "of a format that is not known here")

VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".ivf", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
"""Names that end so promise a video."""

UNFINISHED_SUFFIXES = (".aria2", ".crdownload", ".download", ".part", ".partial", ".tmp", ".ytdl")
"""Programs give such names to a file while they write it."""

# (place, bytes that stand there, what such a file is)
SIGNATURES = (
    (0, b"\x1aE\xdf\xa3", VIDEO),  # Matroska, WebM
    (0, b"FLV\x01", VIDEO),
    (0, b"GIF8", VIDEO),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO),  # ASF, WMV
    (0, b"\x00\x00\x01\xba", VIDEO),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3", VIDEO),  # MPEG video without a container
    (0, b"\x06\x0e\x2b\x34", VIDEO),  # MXF
    (0, b"YUV4MPEG2 ", VIDEO),
    (0, b"DKIF", VIDEO),  # IVF
    (0, b"nut/multimedia", VIDEO),
    (0, b".RMF", VIDEO),
    (0, b"\x1f\x07\x00", VIDEO),  # DV
    (0, b"\xb7\xd8\x00\x20", VIDEO),  # WTV
    (4, b"moov", VIDEO),  # QuickTime, whose parts may come in any order
    (4, b"mdat", VIDEO),
    (4, b"wide", VIDEO),
    (4, b"pnot", VIDEO),
    (4, b"skip", VIDEO),
    (4, b"free", VIDEO),
    (8, b"AVI ", VIDEO),
    (8, b"WEBP", PICTURE),
    (8, b"WAVE", SOUND),
    (0, b"\xff\xd8\xff", PICTURE),
    (0, b"\x89PNG", PICTURE),
    (0, b"II*\x00", PICTURE),
    (0, b"MM\x00*", PICTURE),
    (0, b"ID3", SOUND),
    (0, b"\xff\xfb", SOUND),
    (0, b"fLaC", SOUND),
    (0, b"PK\x03\x04", Content("archive", "a zip archive; unpack it")),
    (0, b"\x1f\x8b", Content("archive", "compressed with gzip; unpack it (gunzip), a tar is then read as it is")),
    (0, b"BZh", Content("archive", "compressed with bzip2; unpack it (bunzip2), a tar is then read as it is")),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        Content("archive", "compressed with zstd; unpack it (unzstd), a tar is then read as it is"),
    ),
    (0, b"\xfd7zXZ\x00", Content("archive", "compressed with xz; unpack it (unxz), a tar is then read as it is")),
    (0, b"7z\xbc\xaf", Content("archive", "a 7z archive; unpack it")),
    (0, b"Rar!", Content("archive", "a rar archive; unpack it")),
    (0, b"\x00\x05\x16\x07", Content("stand-in", "what macOS writes beside a file on foreign disks")),
)
PICTURE_BRANDS = (b"heic", b"heix", b"mif1", b"avif")
SOUND_BRANDS = (b"M4A ", b"M4B ")


def look_at(file: str | Path | VideoFile) -> Content:
    """Look at a file, or at a member of a tar. Raises OSError where it can not be read."""
    file = file if isinstance(file, VideoFile) else VideoFile(str(file))
    return content_of(file.read_head(HEAD_BYTES))


def content_of(head: bytes) -> Content:
    """Tell what a file is. head: the first HEAD_BYTES of it, or all of them."""
    if not head:
        return EMPTY
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return PICTURE if brand in PICTURE_BRANDS else SOUND if brand in SOUND_BRANDS else VIDEO
    if head.startswith(b"OggS"):
        return SOUND if b"vorbis" in head[:64] or b"OpusHead" in head[:64] else VIDEO
    for place, signature, content in SIGNATURES:
        if head.startswith(signature, place):
            return content
    if _is_transport_stream(head) or _is_elementary_stream(head):
        return VIDEO
    return TAR if _is_tar(head) else _text(head)


def _is_transport_stream(head: bytes) -> bool:
    """Tell whether there are MPEG's packets of 188 bytes, or Blu-ray's of 192, each of which has the byte 0x47 where it
    begins."""
    return any(head[start : start + 3 * step : step] == b"GGG" for start, step in ((0, 188), (4, 192)))


def _is_elementary_stream(head: bytes) -> bool:
    """Tell whether it is H.264 (sequence parameters or a delimiter comes first) or HEVC (video parameters or a
    delimiter)."""
    start = head.find(b"\x00\x00\x01", 0, 4)
    unit = head[start + 3 : start + 5]
    return start in (0, 1) and len(unit) == 2 and (unit[0] & 0x1F in (7, 9) or unit in (b"\x40\x01", b"\x46\x01"))


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:  # the checksum of its first 512 bytes is wrong
        return False
    return True


def _text(head: bytes) -> Content:
    begins = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return Content("stand-in", "a Git LFS pointer, not the file itself; fetch it (git lfs pull)")
    if head.lstrip(b"./").startswith((b"annex/objects/", b"git/annex/objects/")):
        return Content("stand-in", "a git-annex pointer, not the file itself; fetch it (git annex get)")
    if begins.startswith((b"<!doctype html", b"<html", b"<head")):
        return Content("stand-in", "a web page (HTML), not the file itself; download it again")
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the cut after HEAD_BYTES may go through a letter
            return UNKNOWN
        text = head[: error.start].decode("utf-8")
    return UNKNOWN if "\0" in text else TEXT
