"""A caption that lies in a file of its own: how its text is written, and whether it is a caption at all.

Beside videos people also keep poses, boxes and subtitles in files of the same name. They would be learnt as what the
video shows, so that a text of that kind is an error that says what it is.
"""

import codecs
import json
import re
from collections.abc import Iterator

from cosmos_data.contents import content_of
from cosmos_data.errors import DataError

# Longest first: UTF-32 begins with the mark of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""A text may begin with one of these to say how it is written."""

FEWEST_NUMBERS = 4
"""A caption may be a number, or two."""


def caption_of(content: bytes) -> str:
    """Return the caption that a file holds: Unicode text, with a byte order mark where it is not UTF-8.

    Raises:
        DataError: it is no such text, or a text of another kind.
    """
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"its caption is not UTF-8 text (byte {error.start} is {content[error.start]:#04x}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError("its caption holds NUL characters; save it as UTF-8 text")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    for what in _other_kinds(text):
        raise DataError(f"its caption is none: {what}; move that file, or write the caption in its place")
    return text


def _other_kinds(text: str) -> Iterator[str]:
    if (content := content_of(text[:512].encode())).kind == "stand-in":
        yield content.what
    words = re.split(r"[\s,;]+", text)
    numbers = sum(_is_number(word) for word in words)
    if numbers >= FEWEST_NUMBERS and numbers >= 0.8 * len(words):
        yield "it holds numbers, as poses and boxes do"
    if text.startswith("WEBVTT") or re.search(r"^[\d:.,]+ --> [\d:.,]+", text, re.MULTILINE):
        yield "it holds subtitles"
    if text.startswith("<?xml"):
        yield "it is XML"
    if text.startswith(("{", "[")) and _is_json(text):
        yield "it is JSON"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
