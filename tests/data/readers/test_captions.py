import pytest

from cosmos_data.errors import DataError
from cosmos_data.readers.captions import caption_of

TEXT = "a red car turns left, 東京 🚗"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_it_is_written(encoding):
    assert caption_of((TEXT + "\r\n").encode(encoding)) == TEXT


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"", ""),
        (b"\xef\xbb\xbf", ""),
        (b" a\r\nb\rc\n", "a\nb\nc"),
        (b"7", "7"),
        (b"3 2 1", "3 2 1"),
        (b"Apollo 11 lands at 20:17 on July 20", "Apollo 11 lands at 20:17 on July 20"),
        (b"<b>bold</b> {and} [bracketed]", "<b>bold</b> {and} [bracketed]"),
        (b"[a man] walks --> left", "[a man] walks --> left"),
        (b"{not json", "{not json"),
    ],
)
def test_captions(content, caption):
    assert caption_of(content) == caption


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"caf\xe9", "byte 3 is 0xe9"),
        (b"a red\0car", "NUL"),
        ("a red car".encode("utf-16-le"), "NUL"),
        (b"https://example.org/v\n0 0.8 1.1 0.4 0.5 0.0 0.0 1.0 0 0 0\n", "it holds numbers"),
        (b"0 0.5 0.5 0.25 0.25\n", "it holds numbers"),
        (b"1,2,3,4\n5,6,7,8\n", "it holds numbers"),
        (b"1\n00:00:00,000 --> 00:00:02,000\nHello\n", "subtitles"),
        (b"WEBVTT\n\nHello", "subtitles"),
        (b'<?xml version="1.0"?><a/>', "XML"),
        (b'{"objects": [1]}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_texts_that_are_no_captions_are_named(content, words):
    with pytest.raises(DataError, match="its caption") as error:
        caption_of(content)
    assert words in str(error.value)
