import gzip
import zipfile

import av
import numpy as np
import pytest
from support.coded_pictures import write_coded
from support.tars import write_tar

from cosmos_data.contents import HEAD_BYTES, content_of, look_at
from cosmos_data.location import VideoFile


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi", "flv", "ts", "m2ts", "mpg", "asf", "nut", "h264"])
def test_videos_are_known_whatever_their_name_is(tmp_path, suffix):
    path = write_coded(tmp_path / f"a.{suffix}", range(3)).rename(tmp_path / "no_suffix")
    assert look_at(path).kind == "video"


def test_a_gif_is_a_video(tmp_path):
    with av.open(str(tmp_path / "a.gif"), "w") as out:
        stream = out.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb8"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    assert look_at(tmp_path / "a.gif").kind == "video"


def test_a_member_is_told_by_its_own_bytes(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"b": b"GIF89a"})
    assert look_at(path).kind == "tar"
    assert look_at(VideoFile(str(path), 512, 6)).kind == "video"
    assert look_at(VideoFile(str(path), 512, 0)).kind == "empty"


def test_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("b.txt", "c")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"b"))
    assert [look_at(tmp_path / name).kind for name in ("a.zip", "a.gz")] == ["archive", "archive"]
    assert "gunzip" in look_at(tmp_path / "a.gz").what


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "stand-in", "git lfs pull"),
        (b"/annex/objects/SHA256E-s5--0.mp4\n", "stand-in", "git annex get"),
        (b"\r\n<!DOCTYPE html><html>", "stand-in", "web page"),
        (b"\x00\x05\x16\x07\x00\x02", "stand-in", "macOS"),
        (b"", "empty", "zero bytes"),
        ("é".encode() * HEAD_BYTES, "text", "text"),
        ("é".encode() * HEAD_BYTES, "text", "text"),
        (b"\x89PNG\r\n", "picture", "picture"),
        (b"\x00\x00\x00\x20ftypavif", "picture", "picture"),
        (b"\x00\x00\x00\x20ftypM4A ", "sound", "sound"),
        (b"OggS" + bytes(24) + b"\x01vorbis", "sound", "sound"),
        (b"OggS" + bytes(24) + b"\x80theora", "video", "video"),
        (bytes(700), "unknown", "not known"),
        (b"\xff\xfe\x00caf", "unknown", "not known"),
    ],
)
def test_by_how_a_file_begins(head, kind, words):
    content = content_of(head[:HEAD_BYTES])
    assert content.kind == kind and words in content.what


def test_a_text_that_is_cut_within_a_letter_is_a_text():
    assert content_of(b"a" + "é".encode() * 600)[:1] == ("text",)
    assert content_of((b"a" + "é".encode() * 600)[:HEAD_BYTES]).kind == "text"
