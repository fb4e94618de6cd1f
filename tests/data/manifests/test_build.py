import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.videos.shown import Rules


def write_faststart(source: Path, target: Path) -> None:
    """The same packets with the index in front, so that a cut-off file still opens."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def write_empty_avi(path: Path) -> None:
    """A valid header and no frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        container.start_encoding()


def rotate_by_metadata(mp4: bytes) -> bytes:
    """Writes a quarter turn into the matrix of the track header, 40 bytes after the box's name."""
    matrix = mp4.index(b"tkhd") + 4 + 40
    quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    return mp4[:matrix] + quarter_turn + mp4[matrix + 36 :]


def overwrite(content: bytes, offset: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).tobytes()
    return content[:offset] + noise + content[offset + 3000 :]


@pytest.fixture
def damaged(footage, mjpeg, tmp_path) -> Path:
    """One good video among every kind of bad one."""
    bikes = (footage / "bikes.mp4").read_bytes()
    shutil.copy(footage / "carphone_pristine.mp4", tmp_path / "good.mp4")
    (tmp_path / "cut_index_last.mp4").write_bytes(bikes[: len(bikes) // 2])
    write_faststart(footage / "bikes.mp4", tmp_path / "whole.mp4")
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "whole.mp4").unlink()
    (tmp_path / "cut_index_first.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no_longer_decodes.mp4").write_bytes(overwrite(bikes, 200000))
    (tmp_path / "patched_up.mp4").write_bytes(overwrite(bikes, 100000))
    packed = Path(mjpeg[0].path).read_bytes()
    picture = packed.index(b"00dc", len(packed) // 2) + 1000
    (tmp_path / "overwritten.avi").write_bytes(packed[:picture] + bytes(300) + packed[picture + 300 :])
    (tmp_path / "cut.avi").write_bytes(packed[: packed.index(b"00dc", len(packed) // 2)])  # between two frames
    (tmp_path / "rotated.mp4").write_bytes(rotate_by_metadata(bikes))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video", encoding="utf-8")
    write_empty_avi(tmp_path / "no_frames.avi")
    return tmp_path


def test_bad_videos_are_skipped_and_named(damaged):
    steps = []
    manifest, bad, *_ = build_manifest(
        damaged, 60, None, split_shots=False, max_bad_share=0.95, progress=lambda *step: steps.append(step)
    )
    assert {clip.path for clip in manifest} == {str(damaged / "good.mp4"), str(damaged / "rotated.mp4")}
    rotated = manifest[len(manifest) - 1]
    assert (rotated.rotation_deg, rotated.height_px, rotated.width_px) == (270, 640, 272)
    reasons = {Path(video.path).name: video.reason for video in bad}
    assert set(reasons) == {
        "cut.avi",
        "cut_index_first.mp4",
        "cut_index_last.mp4",
        "empty.mp4",
        "no_frames.avi",
        "no_longer_decodes.mp4",
        "overwritten.avi",
        "patched_up.mp4",
        "text.mp4",
    }
    assert "of the 30 frames it announces are there" in reasons["cut.avi"]
    assert reasons["overwritten.avi"].startswith("it cannot be decoded after frame 13")
    assert reasons["patched_up.mp4"] == "frame 61 is damaged"
    assert reasons["no_frames.avi"] == "it holds no frames"
    assert steps == [(done, 11) for done in range(1, 12)]


def test_too_many_bad_videos_stop_the_build(damaged):
    with pytest.raises(DataError, match=r"9 of 11 videos.*max_bad_share=0.05(?s:.*)empty\.mp4(?s:.*)text\.mp4"):
        build_manifest(damaged, clip_frames=60, heldout_every=None)


def test_rows(manifest, folder):
    assert [clip.clip_id for clip in manifest][7:9] == ["bikes.mp4@210", "indoors/carphone.mp4@0"]
    bikes, carphone = manifest[7], manifest[8]
    assert (bikes.start_frame, bikes.num_frames, bikes.fps) == (210, 30, 25.0)
    assert (bikes.height_px, bikes.width_px, bikes.codec, bikes.color_matrix) == (272, 640, "h264", "bt601")
    assert bikes.caption == "cyclists on a road"
    assert carphone.caption == ""
    assert carphone.fps == pytest.approx(30000 / 1001)
    assert len({clip.digest for clip in manifest}) == 12
    assert Path(carphone.path) == folder / "indoors" / "carphone.mp4"


def test_the_number_of_workers_changes_nothing(manifest, folder):
    assert (
        build_manifest(folder, 30, 4, split_shots=False, num_workers=1, rules=Rules(pixels="stored")).manifest
        == manifest
    )


def test_a_shorter_last_clip_is_kept_on_request(folder):
    lengths = [
        [clip.num_frames for clip in build_manifest(folder, 100, None, min_frames=least, split_shots=False).manifest]
        for least in (20, 50, 60)
    ]
    assert lengths == [[100, 100, 50, 100, 20], [100, 100, 50, 100], [100, 100, 100]]


def test_a_video_shorter_than_a_clip_is_named(folder):
    manifest, bad, *_ = build_manifest(folder, 121, None, split_shots=False, max_bad_share=0.5)
    assert len(manifest) == 2
    assert [video.reason for video in bad] == ["it has 120 frames, a clip needs 121 or more"]
    with pytest.raises(DataError, match=r"1 of 2 videos.*max_bad_share=0\.49"):
        build_manifest(folder, 121, None, split_shots=False, max_bad_share=0.49)


def test_a_caption_that_is_no_text_is_named(footage, tmp_path):
    shutil.copy(footage / "carphone_pristine.mp4", tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    _, bad, *_ = build_manifest(tmp_path, clip_frames=60, heldout_every=None, max_bad_share=1.0)
    assert "its caption is not UTF-8" in bad[0].reason


def test_empty_missing_and_senseless_requests(tmp_path):
    with pytest.raises(DataError, match="holds no video"):
        build_manifest(tmp_path, clip_frames=30, heldout_every=None)
    with pytest.raises(DataError, match="absent can not be read"):
        build_manifest(tmp_path / "absent", clip_frames=30, heldout_every=None)
    with pytest.raises(DataError, match="heldout_every=0"):
        build_manifest(tmp_path, clip_frames=30, heldout_every=0)


def test_clips_do_not_span_cuts(folder):
    manifest, *_ = build_manifest(folder, 20, None)
    bikes = [clip for clip in manifest if clip.path.endswith("bikes.mp4")]
    cuts = {30, 76, 137, 187, 242}
    for clip in bikes:
        assert not cuts & set(range(clip.start_frame + 1, clip.start_frame + clip.num_frames))
    assert [clip.start_frame for clip in bikes] == [0, 30, 50, 76, 96, 116, 137, 157, 187, 207]
    whole, *_ = build_manifest(folder, None, None)
    assert [clip.num_frames for clip in whole] == [30, 46, 61, 50, 55, 8, 120]
