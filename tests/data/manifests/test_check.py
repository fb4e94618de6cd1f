import math
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from cosmos_data.location import VideoFile
from cosmos_data.manifests import check
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.check import check_manifest, check_rows
from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest


@pytest.fixture
def copy(mjpeg, tmp_path) -> Manifest:
    """12 clips in files of their own, all captioned."""
    shutil.copytree(Path(mjpeg[0].path).parent, tmp_path / "copy")
    clips = Manifest.read(tmp_path / "copy" / "manifest.arrow")
    return Manifest(tuple(replace(clip, caption="a street") for clip in clips))


def test_a_true_manifest(copy):
    steps = []
    assert check_manifest(copy, progress=lambda *step: steps.append(step)) == []
    assert steps == [(done, 12) for done in range(1, 13)]


def test_files_that_are_not_what_they_were(copy, footage):
    paths = [Path(clip.path) for clip in copy]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:6000])
    content = paths[3].read_bytes()
    at = content.index(b"00dc", len(content) // 2) + 1000
    paths[3].write_bytes(content[:at] + bytes(300) + content[at + 300 :])
    shutil.copy(footage / "bikes.mp4", paths[4])
    with paths[5].open("ab") as file:
        file.write(b"!")
    found = {finding.where: finding.text for finding in check_manifest(copy)}
    assert set(found) == {str(path) for path in paths[:6]}
    texts = [found[str(path)] for path in paths[:6]]
    assert texts[0] == "it is missing"
    assert texts[1] == "it has zero bytes"
    assert "it is cut off" in texts[2] or "it cannot be decoded" in texts[2]
    assert "it cannot be decoded after frame 1" in texts[3]
    assert "it is 640x272 px now" in texts[4]
    assert "coded again" in texts[5]


def test_rows_that_say_something_else_than_their_file(copy):
    edited = [
        replace(copy[0], fps=60.0),
        replace(copy[1], height_px=72),
        replace(copy[2], codec="vp9"),
    ]
    found = [finding.text for finding in check_manifest(Manifest(tuple(edited)))]
    assert found == [
        "the manifest says 60 fps, the file 25",
        "the manifest says 96x72 px, the file 96x64",
        "the manifest says vp9, the file mjpeg",
    ]


def test_a_wrong_extension_is_a_warning(footage, tmp_path):
    shutil.copy(footage / "carphone_pristine.mp4", tmp_path / "a.avi")
    (tmp_path / "a.txt").write_text("a man in a car", encoding="utf-8")
    manifest, *_ = build_manifest(tmp_path, 60, None)
    [finding] = check_manifest(manifest)
    assert (finding.level, finding.where) == ("warning", str(tmp_path / "a.avi"))
    assert finding.text.startswith("its name ends in .avi, its content is mov,mp4")


def test_rows_alone(copy):
    eye = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    camera = Camera(
        convention="world_to_camera_opencv", intrinsics_px=(9.0,) * 4, height_px=64, width_px=96, extrinsics=eye
    )
    action = Action(names=("x",), units=("m",), rate_hz=25.0, frame_of_reference="base", values=(0.0,) * 29)
    edited = [
        replace(copy[0], camera=replace(camera, extrinsics=(math.nan, *eye[1:]))),
        replace(copy[1], camera=replace(camera, extrinsics=(2.0, *eye[1:]))),
        replace(copy[2], action=action),
        replace(copy[3], digest=copy[0].digest),
        replace(copy[4], caption=""),
        replace(copy[5], num_frames=1),
        replace(copy[6], fps=15.0),
    ]
    found = list(check_rows(edited, target_fps=24.0))
    assert [finding.where for finding in found] == [clip.clip_id for clip in edited]
    assert [finding.level for finding in found] == ["error"] * 3 + ["warning"] * 4
    for finding, words in zip(
        found,
        [
            "nan at frame 0",
            "is no rotation",
            "29 values; 30 steps",
            f"the same frames as {copy[0].clip_id}",
            "no caption",
            "one frame",
            "no whole stride near 24 fps",
        ],
        strict=True,
    ):
        assert words in finding.text


def test_shards_are_checked_member_by_member(manifest, tmp_path):
    few = Manifest(tuple(replace(clip, caption="a street") for clip in manifest.clips[:3]))
    packed = pack_manifest(few, tmp_path / "out", PackRequest(height_px=64, width_px=96, shard_mib=1))
    assert check_manifest(packed) == []
    shard = Path(packed[0].path)
    content = bytearray(shard.read_bytes())
    middle = packed[1].offset_bytes + packed[1].size_bytes // 2
    content[middle : middle + 300] = bytes(300)
    shard.write_bytes(content)
    [finding] = check_manifest(packed)
    assert "its bytes are not those of the manifest" in finding.text
    shard.write_bytes(content[: packed[2].offset_bytes + 100])
    assert any("it is cut off within member '000002.avi'" in finding.text for finding in check_manifest(packed))


def test_the_journal_spares_what_was_read(copy, tmp_path, monkeypatch):
    journal = tmp_path / "journal.jsonl"
    Path(copy[2].path).write_bytes(b"")
    first = check_manifest(copy, journal=journal)
    lines = journal.read_text(encoding="utf-8").splitlines()
    journal.write_text("\n".join([*lines[:7], lines[7][:20]]), encoding="utf-8")  # killed while it wrote the eighth
    read = []
    sha256 = VideoFile.sha256
    monkeypatch.setattr(check.VideoFile, "sha256", lambda file: read.append(file) or sha256(file))
    assert check_manifest(copy, journal=journal) == first
    assert len(read) == 5
    read.clear()
    Path(copy[0].path).touch()  # another time of change: read again
    assert check_manifest(copy, journal=journal) == first
    assert [file.path for file in read] == [copy[0].path]


def test_av1_is_named_by_its_codec_and_not_by_a_decoder(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libsvtav1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.options = {"preset": "12", "svtav1-params": "lp=1"}
        for level in range(8):
            out.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), level * 30, np.uint8), format="rgb24"))
            )
        out.mux(stream.encode(None))
    manifest, *_ = build_manifest(tmp_path, None, None)
    assert manifest[0].codec == "av1"
    before = Manifest((replace(manifest[0], codec="libdav1d", caption="a"),))  # as it was once written
    assert check_manifest(before) == []
