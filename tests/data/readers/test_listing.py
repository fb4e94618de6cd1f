import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
from support.clips import CAMERA
from support.coded_pictures import write_coded

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.readers.found import BadVideo, FoundVideo, LeftOut
from cosmos_data.readers.listing import read_listing


def listed(folder: Path, text: str | bytes) -> list[FoundVideo | BadVideo | LeftOut]:
    path = folder / "rows.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_listing(path))


@pytest.mark.parametrize("num_views", [1, 3, 6, 7])
def test_any_number_of_views(carphone, footage, tmp_path, num_views):
    for view in range(num_views):
        source = carphone if view % 2 == 0 else footage / "carphone_distorted.mp4"
        shutil.copy(source, tmp_path / f"{view}.mp4")
    others = [{"path": f"{view}.mp4", "view": f"v{view}", "camera": CAMERA} for view in range(1, num_views)]
    row = {"path": "0.mp4", "view": "v0", "views": others, "clip_id": "drive"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    manifest, *_ = build_manifest(tmp_path / "rows.jsonl", 60, None)
    assert [clip.clip_id for clip in manifest] == ["drive@0", "drive@60"]
    assert [view.view for view in manifest[1].each_view()] == [f"v{view}" for view in range(num_views)]
    assert {view.start_frame for view in manifest[1].each_view()} == {60}


@pytest.mark.parametrize(
    ("other", "words"),
    [("bikes.mp4", "view b has 25 fps, the first 29.97"), ("short.mp4", "[120, 60] frames and are not of the same")],
)
def test_views_that_do_not_belong_together(carphone, footage, tmp_path, other, words):
    shutil.copy(carphone, tmp_path / "a.mp4")
    shutil.copy(footage / "bikes.mp4", tmp_path / "bikes.mp4")
    write_coded(tmp_path / "short.mp4", range(60), fps=Fraction(30000, 1001))
    row = {"path": "a.mp4", "views": [{"path": other, "view": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    _, [bad], *_ = build_manifest(tmp_path / "rows.jsonl", 10, None, max_bad_share=1.0)
    assert words in bad.reason


@pytest.mark.parametrize(
    "text",
    [
        '{"path": "a.mp4", "caption": "x"}\r\n\r\n{"path": "b.mp4"}\r\n',
        b'\xef\xbb\xbf{"path": "a.mp4", "caption": "x"}\n{"path": "b.mp4"}',
        '[{"path": "a.mp4", "caption": "x"}, {"path": "b.mp4"}]',
        '[\n{"path": "a.mp4", "caption": "x"},\n{"path": "b.mp4"}\n]\n',
        '{\n  "path": "a.mp4",\n  "caption": "x"\n}\n{"path": "b.mp4"}\n',
        '{"path": "a.mp4", "caption": "x", "num_frames": null, "views": null}\n{"path": "b.mp4", "caption": null}\n',
    ],
)
def test_lines_a_list_or_objects_of_several_lines(tmp_path, text):
    found = listed(tmp_path, text)
    assert [(one.name, one.views[0].caption) for one in found] == [("a.mp4", "x"), ("b.mp4", "")]
    assert found[0].views[0].file.path == str(tmp_path / "a.mp4")


def test_segments_of_one_file_have_names_of_their_own(tmp_path):
    lines = [json.dumps({"path": "a.mp4", "start_frame": start, "num_frames": 20}) for start in (0, 20)]
    assert [one.name for one in listed(tmp_path, "\n".join(lines))] == ["a.mp4", "a.mp4@20"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"path": "a.mp4", "caption": "x", "caption": "y"}', "key 'caption' is said 2 times"),
        ('{"path": "a.mp4", "num_frames": 20.7}', "num_frames='20.7' is no whole number"),
        ('{"path": "a.mp4", "num_frames": "20"}', "num_frames='20' is no number"),
        ('{"path": "a.mp4", "num_frames": true}', "num_frames='True' is no number"),
        ('{"path": "a.mp4", "num_frames": 1e400}', "no whole number"),
        ('{"path": "a.mp4", "start_frame": 99999999999999999999}', "no whole number"),
        ('{"path": "a.mp4", "views": [null]}', "views[0]: one of its entries is empty"),
        ('{"path": "a.mp4", "views": {"left": "b.mp4"}}', "is no list"),
        ('{"path": "a.mp4", "caption": "\\ud800"}', "no Unicode text"),
        ('{"path": "a.mp4", "captoin": "x"}', "'caption' may be meant"),
        ('{"path": "a.mp4", "camera": {"convention": "x", "fov": 1}}', "unknown keys camera.fov"),
        ('{"path": "https://example.org/a.mp4"}', "is an address"),
        ('{"path": "sub\\\\a.mp4"}', "as on Windows"),
        ('{"caption": "x"}', "it names no path"),
        ("[1]", "is no JSON object"),
        ("{torn", "is no JSON object"),
    ],
)
def test_a_wrong_entry_is_one_bad_video(tmp_path, line, words):
    good = '{"path": "good.mp4"}'
    first, bad, last = listed(tmp_path, f"{good}\n{line}\n{good.replace('good', 'other')}\n")
    assert (first.name, last.name) == ("good.mp4", "other.mp4")
    assert isinstance(bad, BadVideo) and words in bad.reason and bad.path.endswith("rows.jsonl, entry 2")


def test_keys_of_other_programs_are_named(tmp_path):
    left_out, source = listed(tmp_path, '{"path": "a.mp4", "url": "https://a", "duration": 3}')
    assert isinstance(left_out, LeftOut) and left_out.reason.endswith("here: duration, url")
    assert source.name == "a.mp4"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"start_frame": -5, "num_frames": 2}, "start_frame=-5"),
        ({"num_frames": 0}, "num_frames=0 is no positive count"),
        ({"start_frame": 12}, "starts at frame 12"),
        ({"start_frame": 10, "num_frames": 5}, "it has 2 frames from its start on, its source says 5"),
        ({"split": "validation"}, "use one of train, heldout"),
        ({"view": "a", "views": [{"path": "a.mp4", "view": "a"}]}, "give each view a name of its own"),
        ({"path": "gone.mp4"}, "No such file"),
        ({"clip_id": "twice"}, "its name 'twice' is that of"),
        ({"caption": "a\0b"}, "NUL"),
    ],
)
def test_what_no_row_can_be_is_bad_alone(coded, tmp_path, row, words):
    shutil.copy(coded[0], tmp_path / "a.mp4")
    rows = [{"path": "a.mp4", "clip_id": "twice"}, {"path": "a.mp4", "clip_id": "odd"} | row]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    manifest, [bad], *_ = build_manifest(tmp_path / "rows.jsonl", None, None, split_shots=False, max_bad_share=1.0)
    assert [clip.clip_id for clip in manifest] == ["twice@0"]
    assert words in bad.reason


def test_what_is_no_listing_is_named(tmp_path):
    for text in (b"\xff\xfe\x00", b"just words"):
        with pytest.raises(DataError, match="is no listing in JSON"):
            listed(tmp_path, text)
