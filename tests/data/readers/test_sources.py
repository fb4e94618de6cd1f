import json
import shutil
from pathlib import Path

import pytest
from support.clips import CAMERA
from support.coded_pictures import numbers_of
from support.tars import write_tar

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest, said_of_left_out
from cosmos_data.readers.sources import read_sources

RATE = 30000 / 1001


def action(num_steps: int) -> dict:
    values = [float(k) for k in range(num_steps)]
    return {"names": ["x"], "units": ["m"], "rate_hz": RATE, "frame_of_reference": "base", "values": values}


def test_json_beside_a_video(carphone, tmp_path):
    shutil.copy(carphone, tmp_path / "a.mp4")
    captions = [{"start_frame": 0, "num_frames": 50, "text": "he talks"}]
    said = {"captions": captions, "camera": CAMERA, "action": action(120), "split": "heldout"}
    (tmp_path / "a.json").write_text(json.dumps(said), encoding="utf-8")
    manifest, bad, *_ = build_manifest(tmp_path, 40, None)
    assert bad == []
    assert [len(clip.captions) for clip in manifest] == [1, 1, 0]
    assert (manifest[1].captions[0].start_frame, manifest[1].captions[0].num_frames) == (0, 10)
    assert [clip.action.values[0] for clip in manifest] == [0.0, 40.0, 80.0]
    assert {clip.split for clip in manifest} == {"heldout"}
    assert list(manifest[2].faults()) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{torn", "is no JSON object"),
        (json.dumps({"action": action(119)}), "119 values; 120 steps of 1"),
        (json.dumps({"num_frame": 3}), "'num_frames' may be meant"),
        (json.dumps({"camera": CAMERA | {"fov": 1}}), "unknown keys camera.fov"),
        (json.dumps({"views": [{"view": "left"}]}), "no video of view 'left'"),
    ],
)
def test_wrong_json_names_its_video(carphone, tmp_path, said, words):
    shutil.copy(carphone, tmp_path / "a.mp4")
    (tmp_path / "a.json").write_text(said, encoding="utf-8")
    _, [bad], *_ = build_manifest(tmp_path, 40, None, max_bad_share=1.0)
    assert words in bad.reason


def test_a_byte_order_mark_is_no_part_of_a_caption(carphone, tmp_path):
    for name, text in (("a", "\ufeffa man talks\n"), ("b", "\ufeff")):
        shutil.copy(carphone, tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    manifest, *_ = build_manifest(tmp_path, None, None, split_shots=False)
    assert [clip.caption for clip in manifest] == ["a man talks", ""]


def test_a_folder_of_many_kinds(coded, tmp_path):
    formats = Path(__file__).parent / "formats"
    shutil.copytree(formats / "lerobot_v21/data", tmp_path / "robots/arm")
    shutil.copytree(formats / "energon/first", tmp_path / "web")
    shutil.copy(coded[0], tmp_path / "B.MP4")
    (tmp_path / "B.TXT").write_text("capital letters")
    shutil.copy(coded[1], tmp_path / "no suffix")
    write_tar(tmp_path / "s.tar", {"0.mp4": coded[2].read_bytes()})
    (tmp_path / "alone.txt").write_text("of no video")
    (tmp_path / "p.png").write_bytes(b"\x89PNG")
    manifest, bad, left_out, num_videos, _ = build_manifest(tmp_path, None, None)
    assert not bad and num_videos == len(manifest) == 12
    names = [clip.clip_id for clip in manifest]
    assert names[:5] == [
        "B.MP4@0",
        "no suffix@0",
        "robots/arm/episode_000000@0",
        "robots/arm/episode_000001@0",
        "robots/arm/episode_000002@0",
    ]
    assert names[5:7] == ["s/0@0", "web/shard_000/00_0000@0"]
    assert {clip.split for clip in manifest.clips[9:]} == {"heldout"} and manifest[9].clip_id.startswith(
        "web/shard_001"
    )
    assert manifest[0].caption == "capital letters" and numbers_of(manifest[1])[:2] == [20, 21]
    lines = "\n".join(said_of_left_out(left_out))
    for words in ("a text that belongs to no video", "it is a picture"):
        assert words in lines


def test_what_is_no_source_is_named(coded, tmp_path):
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b")
    for path, words in (
        (tmp_path / "a.gz", "gunzip"),
        (coded[0], "give the folder it lies in"),
        (tmp_path / "absent", "can not be read"),
        (tmp_path, "holds no video; left out:\n  1: it is compressed with gzip"),
    ):
        with pytest.raises(DataError) as error:
            build_manifest(path, None, None)
        assert words in str(error.value)


def test_a_tar_is_told_by_its_content(coded, tmp_path):
    path = write_tar(tmp_path / "shard", {"0.mp4": coded[0].read_bytes()})
    assert [source.name for source in read_sources(path)] == ["shard/0"]
