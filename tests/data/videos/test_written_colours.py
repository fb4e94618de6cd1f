"""Packed clips: the colours that were given, tagged with all that their container can say."""

from pathlib import Path

import pytest
from support.patches import centres, patches, shown, tags

from cosmos_data.videos.written_codecs import ENCODINGS, PackCodec, encode_pictures
from cosmos_data.videos.written_colours import matrix_of_size


@pytest.mark.parametrize(
    ("codec", "expected"),
    # Motion JPEG has no tags: it is BT.601 of full range by definition.
    [("h264", (6, 1, 1, 1)), ("vp9", (6, 1, 1, 1)), ("mjpeg", (5, 2, 2, 2))],
)
@pytest.mark.parametrize("size", [(96, 192), (720, 1280)])
def test_colours_are_what_the_tags_say(
    tmp_path: Path, codec: PackCodec, expected: tuple[int, ...], size: tuple[int, int]
) -> None:
    video, path = patches(*size), tmp_path / f"a{ENCODINGS[codec].suffix}"
    encode_pictures(video.unbind(1), path, 24, *size, codec)
    assert tags(path) == expected
    assert (centres(shown(path)) - centres(video[:, 0])).abs().max() <= 3  # packing loses a little more


def test_the_matrix_is_what_players_take_of_that_size() -> None:
    small, large = ((480, 854), (576, 1024), (96, 128)), ((704, 1280), (720, 960), (1080, 1920), (1280, 704))
    assert {matrix_of_size(*size) for size in small} == {"bt601"}
    assert {matrix_of_size(*size) for size in large} == {"bt709"}
