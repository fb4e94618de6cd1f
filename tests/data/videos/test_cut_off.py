"""A file whose own parts say that it ends later is cut off; what no part says is not guessed."""

from pathlib import Path

import pytest
from support.footage import CARPHONE

from cosmos_data.location import VideoFile
from cosmos_data.videos.cut_off import missing_end

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"


def of(path: Path, content: bytes, container: str = MP4) -> str | None:
    path.write_bytes(content)
    return missing_end(VideoFile(str(path)), container)


@pytest.mark.parametrize("kept", [-1, -100, 5000])
def test_an_mp4_without_its_end(tmp_path: Path, kept: int):
    whole = CARPHONE.read_bytes()
    assert of(tmp_path / "a.mp4", whole) is None
    assert of(tmp_path / "a.mp4", whole + b"\0" * 100) is None, "what follows the last box is no box"
    said = of(tmp_path / "a.mp4", whole[:kept])
    assert said is not None and f"the file at byte {len(whole[:kept])}" in said


def test_sizes_of_64_bits_and_to_the_end(tmp_path: Path):
    large = (1).to_bytes(4, "big") + b"mdat" + (32).to_bytes(8, "big") + bytes(16)
    assert of(tmp_path / "a.mp4", large) is None
    assert of(tmp_path / "a.mp4", large[:-1]) == "its part 'mdat' ends at byte 32, the file at byte 31"
    assert of(tmp_path / "a.mp4", bytes(4) + b"mdat" + bytes(3)) is None


def test_an_avi(tmp_path: Path):
    riff = b"RIFF" + (13).to_bytes(4, "little") + b"AVI " + bytes(9)
    padded = riff + b"\0"
    assert of(tmp_path / "a.avi", padded + padded, "avi") is None
    assert of(tmp_path / "a.avi", (padded + padded)[:-4], "avi") is not None
    assert of(tmp_path / "a.mkv", riff[:9], "matroska,webm") is None, "it does not tell"


def test_a_member_of_a_shard_ends_where_it_ends(tmp_path: Path):
    whole = CARPHONE.read_bytes()
    (tmp_path / "a.tar").write_bytes(bytes(512) + whole + whole)
    assert missing_end(VideoFile(str(tmp_path / "a.tar"), 512, len(whole)), MP4) is None
    assert missing_end(VideoFile(str(tmp_path / "a.tar"), 512, len(whole) - 9), MP4) is not None
