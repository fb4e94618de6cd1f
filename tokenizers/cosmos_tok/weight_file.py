"""What a file that is given as weights is, by its first bytes and not by its name; all else is refused for what it is.

Weights are in safetensors, in what torch.save writes (a zip archive, formerly pickles in a row) or in TorchScript.
What people have under such names instead: pointers of Git LFS and git-annex, web pages that a download was answered
with, archives that are to be unpacked first, files of which a part is missing.
"""

import re
import zipfile
from pathlib import Path
from typing import Literal

from cosmos_tok.config import TokenizerError

Kind = Literal["safetensors", "zip", "pickles", "torchscript"]
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".jit", ".json")
START_BYTES = 4096
"""So many are looked at."""
AGAIN = "copy the file again"
MAX_HEADER_BYTES = 100_000_000
"""Of safetensors: the library reads no longer ones."""
MAGIC = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it (tar -xzf, or gunzip) and name the file inside"),
    (0, b"BZh", "a bzip2 archive", "unpack it (tar -xjf, or bunzip2) and name the file inside"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it (tar -xJf, or unxz) and name the file inside"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it (tar --zstd -xf, or unzstd) and name the file inside"),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive", "unpack it (unlz4) and name the file inside"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and name the file inside"),
    (0, b"Rar!", "a RAR archive", "unpack it and name the file inside"),
    (257, b"ustar", "a tar archive", "unpack it (tar -xf) and name the file inside"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "convert it to safetensors with the library that wrote it"),
    (0, b"GGUF", "a GGUF file", "take the model's safetensors instead"),
    (0, b"\x93NUMPY", "an array of NumPy", "name a file of named tensors, such as safetensors"),
    (0, b"%PDF", "a PDF document", "name the file of the weights"),
    (0, b"\x89PNG", "a picture", "name the file of the weights"),
)
"""(place of the bytes, the bytes, what has them, what to do)."""
LFS = re.compile(rb"version https?://(git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/")
LFS_SIZE = re.compile(rb"^size (\d+)\s*$", re.MULTILINE)
ANNEX = re.compile(rb"[\w./ -]*annex/objects/")
PAGE = re.compile(rb"<(!doctype\s+html|html|head|body|\?xml|!--|error|script)", re.IGNORECASE)


def kind_of(path: Path) -> Kind:
    """What the file is. TokenizerError, which names it, what it is instead and the remedy, where it is no weights."""
    start = _read_start(path)
    _refuse_stand_in(path, start)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if _is_safetensors(start):
        return "safetensors"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # a pickle says its protocol
        return "pickles"
    raise TokenizerError(f"{path} is {_in_words(start)}")


def refuse_stand_in(path: Path) -> None:
    """TokenizerError where another file of a model's folder, which may be text, is a pointer, web page or archive."""
    _refuse_stand_in(path, _read_start(path))


def refuse_broken_links(path: Path) -> None:
    """TokenizerError where a path, or a file of weights in the folder that it is, is a link to what is not there."""
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        if one == path or one.suffix in SUFFIXES:
            _refuse_broken_link(one)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, whatever it is called."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _holds(archive, "constants.pkl")
    except (OSError, zipfile.BadZipFile):  # what it is instead, `kind_of` tells
        return False


def is_compressed(path: Path) -> bool:
    """Whether what a zip archive holds is compressed: somebody packed it again, and it can not be mapped."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _read_start(path: Path) -> bytes:
    _refuse_broken_link(path)
    try:
        with path.open("rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error


def _refuse_broken_link(path: Path) -> None:
    if not path.is_symlink() or path.exists():
        return
    target = path.readlink()
    if ANNEX.match(str(target).encode()):
        raise TokenizerError(f"{path} is a link of git-annex to content that is not here; run `git annex get {path}`")
    raise TokenizerError(f"{path} is a link to {target}, which is not there; copy the file itself, as `cp -L` does")


def _refuse_stand_in(path: Path, start: bytes) -> None:
    if not start:
        raise TokenizerError(f"{path} is empty, as an interrupted download leaves it; {AGAIN}")
    if LFS.match(start):
        size = LFS_SIZE.search(start)
        of = f" of {int(size[1]):,} bytes" if size else ""
        raise TokenizerError(
            f"{path} is a Git LFS pointer that stands in for a file{of}; run `git lfs pull` in its folder"
        )
    if ANNEX.match(start):
        raise TokenizerError(f"{path} is a git-annex pointer that stands in for a file; run `git annex get {path}`")
    if PAGE.match(_plain(start)):
        raise TokenizerError(
            f"{path} is a web page, with which a server answered in place of the file; download it again, with the "
            "login or the consent that the page asks for"
        )
    for place, magic, what, remedy in MAGIC:
        if start[place:].startswith(magic):
            raise TokenizerError(f"{path} is {what}, not a file of weights; {remedy}")


def _kind_of_zip(path: Path) -> Kind:
    """Of a file that begins as a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _holds(archive, "constants.pkl"):
                return "torchscript"
            if _holds(archive, "data.pkl"):
                return "zip"
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (OSError, zipfile.BadZipFile) as error:
        raise TokenizerError(f"{path} cannot be read: it is cut off or damaged ({error}); {AGAIN}") from error
    if names and all(name.endswith(".npy") for name in names):
        raise TokenizerError(f"{path} is an .npz file of NumPy, not a file of weights; save its arrays as safetensors")
    inside = f"with {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "with nothing in it"
    raise TokenizerError(f"{path} is a zip archive {inside}, none of torch.save; unpack it and name the file inside")


def _holds(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a file of this name lies in the one folder that torch writes."""
    return any(one.count("/") == 1 and one.endswith(f"/{name}") for one in archive.namelist())


def _is_safetensors(start: bytes) -> bool:
    """A length, whose upper bytes are zeros, and JSON after it."""
    is_length = b"\x00" in start[:8] and 2 <= int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES
    return is_length and start[8:9] in (b"{", b"")


def _in_words(start: bytes) -> str:
    """What a file is that is neither weights nor a known stand-in, and what to do."""
    if not start.strip(b"\x00"):
        return f"zeros, as in a file whose download has not come to an end; {AGAIN}"
    text = _text(start)
    if text is None:
        begin = start[:8].hex(" ")
        return f"neither safetensors nor of torch.save: it begins with the bytes {begin}; name a file of weights"
    shown = " ".join(text.split())[:60]
    if text.lstrip().startswith(("{", "[")):
        return f"JSON that begins with {shown!r}, not weights; name the file of the weights, or download it again"
    return f"text that begins with {shown!r}, not weights; name the file of the weights, or download it again"


def _text(start: bytes) -> str | None:
    """The beginning as text, or None where it is none."""
    coding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start.decode(coding, errors="ignore")  # the last character may be cut
    is_whole = bool(text) and len(text.encode(coding)) >= len(start) - 4
    return text if is_whole and all(one.isprintable() or one.isspace() for one in text) else None


def _plain(start: bytes) -> bytes:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()
