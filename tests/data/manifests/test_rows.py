import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.clip import Clip, Pictures
from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, EgoTrajectory
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import to_row, typed_json

COUNT = pa.struct([pa.field("num_frames", pa.int64())])
CAMERA = Camera(
    convention="camera_to_world_opengl",
    intrinsics_px=(1.0, 2.0, 3.0, 4.0),
    height_px=9,
    width_px=16,
    extrinsics=(0.5,) * 12,
)
PICTURES = {"start_frame": 0, "height_px": 72, "width_px": 128, "codec": "h264", "pixel_format": "yuv420p"}
PICTURES |= {"color_matrix": "bt709", "first_pts": 0, "digest": "a" * 64}
FULL = Clip(
    clip_id="robot",
    path="/far/away/front.mp4",
    num_frames=8,
    fps=24.0,
    duration_sec=8 / 24,
    split="train",
    caption="a robot",
    view="front",
    camera=CAMERA,
    captions=(CaptionWindow(start_frame=0, num_frames=4, text="it waits"),),
    views=tuple(
        Pictures(path="/far/away/shard.tar", offset_bytes=512, size_bytes=9, view=name, **PICTURES)
        for name in ("left", "right")
    ),
    action=Action(names=("x",), units=("m",), rate_hz=24.0, frame_of_reference="base", values=(1.0,) * 8),
    ego_trajectory=EgoTrajectory(rate_hz=3.0, frame_of_reference="world", positions_m=(0.0, 1.0, 2.0)),
    **PICTURES,
)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_every_column_comes_back(tmp_path, suffix):
    manifest = Manifest((FULL, replace(FULL, clip_id="plain", views=(), camera=None, action=None, captions=())))
    path = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        manifest.write(path)
    else:
        path.write_text("\n".join(json.dumps(to_row(clip)) for clip in manifest) + "\n\n", encoding="utf-8")
    again = Manifest.read(path)
    assert again == manifest
    assert again.digest == manifest.digest


STATE = Action(
    names=("joint",), units=("rad",), rate_hz=24.0, frame_of_reference="base", values=(0.5,) * 8, embodiment="arm"
)


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "jsonl"])
def test_a_state_and_whose_actions_they_are_come_back(tmp_path, suffix):
    assert FULL.action is not None
    clip = replace(FULL, state=STATE, action=replace(FULL.action, embodiment="arm"))
    path = tmp_path / f"m.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(to_row(clip)), encoding="utf-8")
    else:
        Manifest((clip,)).write(path)
    again = Manifest.read(path)
    assert again[0] == clip and again.says("state")
    digests = {Manifest((one,)).digest for one in (clip, FULL, replace(FULL, state=STATE), replace(clip, state=None))}
    assert len(digests) == 4 and again.digest in digests


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_manifest_of_version_3_is_read_and_keeps_its_digest(tmp_path, suffix):
    old = Manifest.read(Path(__file__).parent / f"data/version_3.{suffix}")
    assert old.digest == "1f30294c03c30aaf82f155b9bd4a859ba3a9cb930fe0d9d51c57aab7001cc66e"
    assert old[0] == FULL and old[1].clip_id == "plain"
    assert old.says("action") and not old.says("state")
    old.write(tmp_path / "new.arrow")
    new = Manifest.read(tmp_path / "new.arrow")
    assert new == old and new.digest == old.digest


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_a_manifest_of_version_4_is_read_and_keeps_its_digest(tmp_path, suffix):
    old = Manifest.read(Path(__file__).parent / f"data/version_4.{suffix}")
    assert old.digest == "d33a6747f85fc3d99084de9714862dd2eafd8160cf521eaf2630f7cae09a236c"
    assert old[0] == replace(FULL, state=STATE) and old[1].clip_id == "plain"
    assert old.says("state") and not old.says("labels_file")


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "jsonl"])
def test_the_place_of_labels_comes_back_and_is_no_part_of_the_digest(tmp_path, suffix):
    labels_file = VideoFile(str(tmp_path / "shard.tar"), 512, 9)
    clip, path = replace(FULL, labels_file=labels_file), tmp_path / f"m.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(to_row(clip)), encoding="utf-8")
    else:
        Manifest((clip,)).write(path)
        (tmp_path / "elsewhere").mkdir()
        path = path.rename(tmp_path / "elsewhere" / path.name)
        clip = replace(clip, labels_file=replace(labels_file, path=str(tmp_path / "elsewhere/shard.tar")))
    again = Manifest.read(path)
    assert again[0] == clip and again.digest == Manifest((FULL,)).digest


def test_json_lines_may_leave_defaults_out(tmp_path):
    row = {"clip_id": "a", "path": "a.mp4", "num_frames": 3, "fps": 24, "split": "train", **PICTURES}
    (tmp_path / "m.jsonl").write_text(json.dumps(row), encoding="utf-8")
    [clip] = Manifest.read(tmp_path / "m.jsonl")
    assert (clip.path, clip.fps, clip.views, clip.caption) == (str(tmp_path / "a.mp4"), 24.0, (), "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_frames": "three"}, "line 2: "),
        ({"mood": "good"}, "line 2: unknown columns mood"),
        ({"views": [{"path": "b.mp4", "angle": 3}]}, "unknown columns views.angle"),
        ({"camera": "none"}, "line 2: unknown columns camera='none'"),
        ({"caption": None}, "row 1, column caption: empty"),
        ({"split": "test"}, "row 1, column split"),
        ({"offset_bytes": 5}, "column offset_bytes"),
        ({"labels_file": {"path": "a.npz", "size_bytes": 5}}, "column labels_file"),
        ({"labels_file": {}}, "row 1: labels_file.missing"),
        ({"seek": "stamps"}, "column first_pts"),
        ({"views": [{"path": "b.mp4"}]}, "row 1: views.missing"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, change, words):
    row = {"clip_id": "a", "path": "a.mp4", "num_frames": 3, "fps": 24, "split": "train", **PICTURES}
    lines = [json.dumps(row), json.dumps(row | {"clip_id": "b"} | change)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Manifest.read(tmp_path / "m.jsonl")
    assert words in str(caught.value)


def test_views_with_one_name(tmp_path):
    with pytest.raises(DataError, match="views with different names"):
        Manifest((replace(FULL, view="left"),))


def test_the_digest_covers_every_view_and_condition():
    other = [
        replace(FULL, views=FULL.views[:1]),
        replace(FULL, camera=replace(CAMERA, width_px=17)),
        replace(FULL, action=None),
        replace(FULL, captions=()),
    ]
    assert len({Manifest((clip,)).digest for clip in [FULL, *other]}) == 5
    assert Manifest((replace(FULL, path="/near.mp4"),)).digest == Manifest((FULL,)).digest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*to_row(FULL), "x"]), inner, max_size=6)
    ),
    max_leaves=12,
)
ROW = st.dictionaries(st.sampled_from(list(to_row(FULL))), JSON, max_size=20).map(lambda change: to_row(FULL) | change)


def read_or_data_error(path) -> None:
    """What is not refused is a manifest with a digest."""
    try:
        manifest = Manifest.read(path)
    except DataError:
        return
    assert len(manifest.digest) == 64


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW | JSON, max_size=3))
def test_fuzz_any_json_is_a_manifest_or_a_data_error(tmp_path, rows):
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    read_or_data_error(tmp_path / "m.jsonl")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_fuzz_damaged_bytes_are_a_manifest_or_a_data_error(tmp_path, edits):
    for name in ("m.parquet", "m.jsonl"):
        whole = tmp_path / f"whole-{name}"
        if not whole.exists():
            Manifest((FULL,)).write(tmp_path / "whole-m.parquet")
            (tmp_path / "whole-m.jsonl").write_text(json.dumps(to_row(FULL)), encoding="utf-8")
        content = bytearray(whole.read_bytes())
        for place, edit in edits:
            place %= len(content)
            content[place : place + len(edit)] = edit
        (tmp_path / name).write_bytes(content)
        read_or_data_error(tmp_path / name)


@pytest.mark.parametrize("value", [3, 3.0, 1e3])
def test_whole_numbers_may_be_written_with_a_point(value):
    assert typed_json(json.dumps({"num_frames": value}).encode(), COUNT) == {"num_frames": int(value)}


@pytest.mark.parametrize(
    "text", ['{"num_frames": 3, "num_frames": 4}', "[]", "3", "{torn", '{"num_frames": [3]}', "\udcff"]
)
def test_what_is_no_such_object(text):
    with pytest.raises(DataError):
        typed_json(text.encode(errors="surrogateescape"), COUNT)
