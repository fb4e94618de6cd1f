"""A listing of videos: JSON lines, or one JSON list, or JSON objects one after the other.

{"path": "drive.mp4", "caption": "...", "views": [...], "action": {...}, "start_frame": 0, "num_frames": 121}
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmos_data.errors import DataError
from cosmos_data.readers.described import described, file_of, video_of
from cosmos_data.readers.file_group import left_out_keys
from cosmos_data.readers.found import BadVideo, Found, printable


def read_listing(path: Path) -> Iterator[Found]:
    """Yield the videos of a listing, in which relative paths begin at the folder of the file. Raises DataError where
    the file as a whole is no listing."""
    for number, text in _entries(path):
        where = f"{printable(str(path))}, entry {number}"
        try:
            values, foreign = described(text)
            if not values.get("path"):
                raise DataError("it names no path; name the video")
            yield from left_out_keys(where, foreign)
            yield video_of(_name(values), {"": file_of(values["path"], path.parent)}, values, path.parent, number)
        except DataError as error:
            yield BadVideo(where, str(error))


def _name(values: dict[str, Any]) -> str:
    """Segments of one file have names of their own."""
    start_frame = values.get("start_frame", 0)
    return values.get("clip_id") or (f"{values['path']}@{start_frame}" if start_frame else values["path"])


def _entries(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, the text of one object). In a file with an object on each line it is the line's number."""
    try:
        with path.open("rb") as file:
            lines = (line.removeprefix(b"\xef\xbb\xbf").strip() for line in file)
            first = next((line for line in lines if line), b"")
        if first.startswith(b"{") and first.endswith(b"}"):
            with path.open("rb") as file:
                yield from (
                    (number, line) for number, line in enumerate(file, start=1) if line.strip(b"\xef\xbb\xbf \r\n\t")
                )
        else:
            yield from enumerate(_joined_objects(path.read_bytes()), start=1)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{printable(str(path))} is no listing in JSON ({error}); write one object a line") from error


def _joined_objects(text: bytes) -> Iterator[bytes]:
    """Return the objects of a list, or objects that each take several lines. ValueError where it is neither."""
    rest = text.decode("utf-8-sig").strip()
    decoder = json.JSONDecoder()
    if rest.startswith("["):
        # Cut from the text, not written again, so that a key that is said twice is still seen.
        rest = rest.removeprefix("[").removesuffix("]").strip()
    while rest:
        _, end = decoder.raw_decode(rest)
        yield rest[:end].encode()
        rest = rest[end:].lstrip().removeprefix(",").lstrip()
