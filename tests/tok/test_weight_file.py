"""What lies under the name of a file of weights: each kind of wrong file is named, with what to do about it."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cosmos_tok.config import TokenizerError
from cosmos_tok.weight_file import is_compressed, is_torchscript, kind_of, refuse_broken_links, refuse_stand_in

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 13500000000\n"
)
WEIGHTS = {"a.weight": torch.arange(6.0), "a.bias": torch.ones(2)}


def torch_bytes() -> bytes:
    file = io.BytesIO()
    torch.save(WEIGHTS, file)
    return file.getvalue()


def archive_of(kind: str) -> bytes:
    """An archive with a model.pt in it."""
    file, inside = io.BytesIO(), torch_bytes()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model.pt", inside)
    else:
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
            member = tarfile.TarInfo("model.pt")
            member.size = len(inside)
            archive.addfile(member, io.BytesIO(inside))
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.ones(3))
    return file.getvalue()


WRONG: dict[str, tuple[bytes, str]] = {
    "lfs": (POINTER.encode(), r"a Git LFS pointer .* of 13,500,000,000 bytes; run `git lfs pull`"),
    "lfs of old": (POINTER.replace("git-lfs.github.com", "hawser.github.com").encode(), r"a Git LFS pointer"),
    "lfs of Windows": (POINTER.replace("\n", "\r\n").encode(), r"a Git LFS pointer .*13,500,000,000"),
    "annex": (b"/annex/objects/SHA256E-s13--ab.pt\n", r"a git-annex pointer .*run `git annex get"),
    "annex link": (b"../.git/annex/objects/9X/k3/SHA256E-s13--ab.pt/SHA256E-s13--ab.pt", r"a git-annex pointer"),
    "page": (
        b"\n  <!DOCTYPE html>\n<html><head><title>Sign in</title>",
        r"a web page.*download it again, with the login",
    ),
    "page with a mark": (b"\xef\xbb\xbf<HTML lang='de'>\xfc", r"a web page"),
    "answer of a bucket": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', r"a web page"),
    "tar": (archive_of(""), r"a tar archive, not a file of weights; unpack it \(tar -xf\) and name the file inside"),
    "tar.gz": (archive_of("gz"), r"a gzip archive, .*unpack it"),
    "gz": (gzip.compress(torch_bytes()), r"a gzip archive"),
    "bz2": (bz2.compress(b"weights"), r"a bzip2 archive"),
    "xz": (lzma.compress(b"weights"), r"an xz archive"),
    "zip": (archive_of("zip"), r"a zip archive with model.pt, none of torch.save; unpack it and name the file inside"),
    "npz": (arrays(), r"an .npz file of NumPy"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(40), r"a GGUF file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), r"an HDF5 file"),
    "json": (b' {"error": "Repository not found"}', r"JSON that begins with '{\"error\": \"Repository not found\"}'"),
    "text": ("Gewichte für später\n".encode(), r"text that begins with 'Gewichte für später', not weights"),
    "text of Windows": ("weights".encode("utf-16"), r"text that begins with 'weights'"),
    "number": (b"404", r"text that begins with '404'"),
    "empty": (b"", r"is empty, as an interrupted download leaves it; copy the file again"),
    "one byte": (b"\x80", r"neither safetensors nor of torch.save: it begins with the bytes 80"),
    "zeros": (bytes(9000), r"zeros, as in a file whose download has not come to an end"),
    "noise": (bytes(range(255, 100, -1)), r"neither safetensors nor of torch.save: it begins with the bytes ff fe"),
    "cut zip": (torch_bytes()[:300], r"cannot be read: it is cut off or damaged .*copy the file again"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("file_name", ["model.pt", "model.safetensors"])
def test_a_wrong_file_is_named(tmp_path: Path, name: str, file_name: str):
    content, said = WRONG[name]
    (tmp_path / file_name).write_bytes(content)
    with pytest.raises(TokenizerError, match=said) as caught:
        kind_of(tmp_path / file_name)
    assert str(caught.value).startswith(str(tmp_path / file_name)) and "\n" not in str(caught.value)


def test_right_files_are_what_their_bytes_say(tmp_path: Path):
    """Whatever they are called."""
    save_file(WEIGHTS, tmp_path / "a.pt")
    torch.save(WEIGHTS, tmp_path / "a.safetensors")
    torch.save(WEIGHTS, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "c.ckpt"))
    found = {path.name: kind_of(path) for path in tmp_path.iterdir()}
    assert found == {"a.pt": "safetensors", "a.safetensors": "zip", "old.bin": "pickles", "c.ckpt": "torchscript"}
    assert [path.name for path in tmp_path.iterdir() if is_torchscript(path)] == ["c.ckpt"]


def test_an_archive_that_was_packed_again_is_seen(tmp_path: Path):
    torch.save(WEIGHTS, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as one,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as two,
    ):
        for name in one.namelist():
            two.writestr(name, one.read(name))
    assert not is_compressed(tmp_path / "a.pt") and is_compressed(tmp_path / "b.pt")


def test_other_files_of_a_folder_may_be_text(tmp_path: Path):
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {}}))
    refuse_stand_in(tmp_path / "index.json")
    (tmp_path / "index.json").write_text(POINTER)
    with pytest.raises(TokenizerError, match=r"index.json is a Git LFS pointer"):
        refuse_stand_in(tmp_path / "index.json")


def test_links_to_nothing_are_named(tmp_path: Path):
    (tmp_path / "notes.md").symlink_to("nowhere")
    refuse_broken_links(tmp_path)
    (tmp_path / "model.pt").symlink_to("../blobs/4d7a21")
    for path in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(TokenizerError, match=r"model.pt is a link to ../blobs/4d7a21, which is not there.*cp -L"):
            refuse_broken_links(path)
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt").symlink_to("../.git/annex/objects/9X/k3/SHA256E-s13--ab.pt/SHA256E-s13--ab.pt")
    with pytest.raises(TokenizerError, match=r"git-annex to content that is not here; run `git annex get .*model.pt`"):
        kind_of(tmp_path / "model.pt")
    with pytest.raises(TokenizerError, match=r"nothing.pt cannot be read: No such file or directory"):
        kind_of(tmp_path / "nothing.pt")
