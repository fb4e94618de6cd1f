import json
import shutil

import pytest
from support.clips import CAMERA
from support.coded_pictures import numbers_of
from support.tars import write_tar

from cosmos_data.manifests.build import build_manifest
from cosmos_data.readers.found import BadVideo, LeftOut
from cosmos_data.readers.webdataset import parts_of, read_tar


def test_webdataset_tars_are_read_in_place(carphone, tmp_path):
    video = carphone.read_bytes()
    good = {"0.mp4": video, "0.txt": b"a man", "0.json": json.dumps({"camera": CAMERA}).encode(), "0.Left.mp4": video}
    write_tar(tmp_path / "a.tar", good | {"0.Left.txt": b"from the left"})
    write_tar(tmp_path / "b.tar", {"../0.mp4": video})
    write_tar(tmp_path / "c.tar", {"x.mp4": video, "x.json": b'{"views": [{"path": "/etc/passwd"}]}'})
    manifest, bad, *_ = build_manifest(tmp_path, None, None, max_bad_share=1.0)
    [clip] = manifest
    assert (clip.clip_id, [view.view for view in clip.each_view()]) == ("a/0@0", ["", "Left"])
    assert [view.caption for view in clip.each_view()] == ["a man", "from the left"]
    assert clip.file.read_bytes() == video
    assert "leads out of its folder" in bad[0].reason
    assert "only files of the shard" in bad[1].reason


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("0.mp4", ("0", "", ".mp4")),
        ("a/b.front.MP4", ("a/b", "front", ".mp4")),
        ("a.v1/b.mp4", ("a.v1/b", "", ".mp4")),
        ("b.head.rgb.mp4", ("b", "head.rgb", ".mp4")),
        ("b.front.mp4.txt", ("b", "front", ".txt")),
        ("2024.01.05.mp4", ("2024.01.05", "", ".mp4")),
        ("clip 2.0 (clean).txt", ("clip 2.0 (clean)", "", ".txt")),
        ("readme", ("readme", "", "")),
    ],
)
def test_names_of_members(name, parts):
    assert parts_of(name) == parts


def test_what_lies_in_a_shard_in_any_order(coded, tmp_path):
    first, second, third = (path.read_bytes() for path in coded)
    members = [
        ("./._0.mp4", b"\x00\x05\x16\x07"),
        ("./0.mp4", first),
        ("./22.05.mp4", second),
        ("./0.txt", b"one"),
        ("./22.05.mp4.txt", b"two"),
        ("./0.json", b'{"url": "https://a", "caption": null}'),
        ("./0.npy", b"1"),
        ("./9.jpg", b"\xff\xd8\xff"),
        ("./twice.mp4", third),
        ("./twice.mp4", first),
        ("./latin\udce9.mp4", third),
    ]
    path = tmp_path / "s.tar"
    write_tar(path, members)
    manifest, bad, left_out, num_videos, _ = build_manifest(path, None, None, max_bad_share=1.0)
    assert [(clip.clip_id, clip.caption) for clip in manifest] == [("s/0@0", "one"), ("s/22.05@0", "two")]
    assert [numbers_of(clip)[0] for clip in manifest] == [0, 20]
    assert num_videos == 4
    assert ["2 videos have its name: ./twice.mp4" in bad[0].reason, "not UTF-8" in bad[1].reason] == [True, True]
    reasons = " ".join(one.reason for one in left_out)
    for words in ("hidden", "here: url", "beside one (.npy)", "a sample without a video"):
        assert words in reasons


def test_equal_names_in_several_folders(coded, tmp_path):
    for part, video in zip(("part1", "part2"), coded, strict=False):
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part / "00000.tar", {"000.mp4": video.read_bytes()})
    shutil.copy(coded[2], tmp_path / "part1/loose.mp4")
    manifest, bad, *_ = build_manifest(tmp_path, None, None)
    assert not bad
    assert [(clip.clip_id, numbers_of(clip)[0]) for clip in manifest] == [
        ("part1/00000/000@0", 0),
        ("part1/loose.mp4@0", 40),
        ("part2/00000/000@0", 20),
    ]


def test_a_shard_without_samples_is_left_out_and_a_damaged_one_is_bad(tmp_path):
    write_tar(tmp_path / "empty.tar", {})
    [empty] = read_tar(tmp_path / "empty.tar", "empty")
    (tmp_path / "cut.tar").write_bytes(write_tar(tmp_path / "a.tar", {"a.mp4": b"1" * 5000}).read_bytes()[:2000])
    [cut] = read_tar(tmp_path / "cut.tar", "cut")
    assert isinstance(empty, LeftOut) and isinstance(cut, BadVideo) and "cut off" in cut.reason
