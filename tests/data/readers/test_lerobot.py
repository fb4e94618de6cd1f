import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.coded_pictures import numbers_of, write_coded

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.readers.found import BadVideo, FoundVideo, LeftOut
from cosmos_data.readers.lerobot import read_lerobot, text_of, views_of

FORMATS = Path(__file__).parent / "formats"
RATE = 30000 / 1001


def write_lerobot(folder: Path, carphone: Path, version: str) -> None:
    """Two episodes of 60 frames; in 3.0 both are parts of one file."""
    is_shared = version == "v3.0"
    camera = "observation.images.wrist"
    data = "data/chunk-000/file-000.parquet" if is_shared else "data/chunk-000/episode_{:06d}.parquet"
    info = {
        "codebase_version": version,
        "fps": RATE,
        "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if is_shared
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if is_shared
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            camera: {"dtype": "video", "shape": [144, 176, 3]},
            "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["pan", "lift"]}},
        },
    }
    episodes = [{"episode_index": k, "length": 60, "tasks": [f"task {k}"]} for k in range(2)]
    rows = [{"episode_index": k, "action": [float(k), float(t)]} for k, t in product(range(2), range(60))]
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "data/chunk-000").mkdir(parents=True)
    if is_shared:
        for k, episode in enumerate(episodes):
            episode |= {"data/chunk_index": 0, "data/file_index": 0, f"videos/{camera}/from_timestamp": 60 * k / RATE}
            episode |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": 0}
        (folder / "meta/episodes/chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
        pq.write_table(pa.Table.from_pylist(rows), folder / data)
        (folder / f"videos/{camera}/chunk-000").mkdir(parents=True)
        shutil.copy(carphone, folder / f"videos/{camera}/chunk-000/file-000.mp4")
        return
    lines = "\n".join(json.dumps(episode) for episode in episodes)
    (folder / "meta/episodes.jsonl").write_text(lines, encoding="utf-8")
    (folder / f"videos/chunk-000/{camera}").mkdir(parents=True)
    for k in range(2):
        pq.write_table(pa.Table.from_pylist(rows[60 * k : 60 * k + 60]), folder / data.format(k))
        shutil.copy(carphone, folder / f"videos/chunk-000/{camera}/episode_{k:06d}.mp4")


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_lerobot(carphone, tmp_path, version):
    write_lerobot(tmp_path / "robot", carphone, version)
    manifest, bad, *_ = build_manifest(tmp_path / "robot", 30, None)
    assert bad == []
    episodes = product(range(2), (0, 30))
    assert [clip.clip_id for clip in manifest] == [f"episode_00000{k}@{start}" for k, start in episodes]
    last = manifest[3]
    assert (last.view, last.caption, last.action.names) == ("wrist", "task 1", ("pan", "lift"))
    assert last.action.values_ND()[0].tolist() == [1.0, 30.0]
    assert last.start_frame == (90 if version == "v3.0" else 30)
    assert list(last.faults()) == []


def test_lerobot_folders_that_cannot_be_read(carphone, tmp_path):
    write_lerobot(tmp_path / "robot", carphone, "v2.1")
    info = tmp_path / "robot/meta/info.json"
    good = json.loads(info.read_text(encoding="utf-8"))
    for change, words in (
        ({"codebase_version": "v1.6"}, "LeRobot v1.6; 2.0, 2.1 and 3.0 can be read"),
        ({"features": {}}, "no video among its features"),
        ({"fps": "fast"}, "fps='fast' is no rate"),
        ({"fps": 0}, "fps=0 is no rate"),
        ({"features": []}, "features='\\[\\]' is no object"),
        ({"features": {"a": 1}}, "feature 'a' has no dtype"),
        ({"chunks_size": 0}, "chunks_size=0"),
        ({"video_path": "../{video_key}.mp4"}, "leads out of the folder"),
        ({"video_path": "{episode_index.__class__}"}, "names 'episode_index.__class__'"),
        ({"video_path": "{episode_index:0999999999d}"}, "use 03d or the like"),
        ({"video_path": "{chunk"}, "is no template"),
        ({"video_path": None}, "has no video_path"),
    ):
        info.write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(DataError, match=words):
            build_manifest(tmp_path / "robot", 30, None)


@pytest.mark.parametrize("name", sorted(path.name for path in FORMATS.glob("lerobot*")))
def test_complaint_17_frames_and_actions_that_lerobot_wrote_stay_together(name, tmp_path):
    """Frames, actions, states and tasks of every episode are those that were handed to the recorder, also where an
    episode lies at another time in each camera's file of version 3.0."""
    expected = json.loads((FORMATS / name / "expected.json").read_text(encoding="utf-8"))
    names = [*expected["cameras"], *expected["images"]]
    manifest, bad, *_ = build_manifest(
        FORMATS / name / "data", None, None, cameras=names, gathered_folder=tmp_path / "gathered"
    )
    assert not bad
    assert len(manifest) == len(expected["episodes"])
    for clip, episode in zip(manifest, expected["episodes"], strict=True):
        assert clip.clip_id == f"episode_{episode['episode_index']:06d}@0"
        assert [numbers_of(view) for view in clip.each_view()] == [episode["codes"][camera] for camera in names]
        columns = [np.reshape(episode[key], (clip.num_frames, -1)) for key in episode if key.startswith("action")]
        assert clip.action is not None and np.array_equal(clip.action.values_ND(), np.concatenate(columns, axis=1))
        assert [clip.caption_at(frame, 1) for frame in range(clip.num_frames)] == episode["task_of_frame"]
        assert clip.action.embodiment == "fixture"
        assert (clip.state is None) == ("observation.state" not in episode)
        if clip.state is not None:
            assert np.array_equal(clip.state.values_ND(), episode["observation.state"])
            assert clip.state.names == ("x", "y", "gripper") and list(clip.faults()) == []


def test_pictures_in_tables_are_gathered_at_the_rate_of_the_folder(tmp_path):
    """Bit for bit, as views beside those of videos; depth alone is to be asked for."""
    folder = FORMATS / "lerobot_v3_only_images/data"
    [clip, *_] = build_manifest(folder, None, None, gathered_folder=tmp_path / "gathered").manifest
    assert [view.view for view in clip.each_view()] == ["front", "wrist"]
    assert clip.codec == "png" and clip.fps == 15 and clip.path == str(tmp_path / "gathered/episode_000000.front.avi")
    with pytest.raises(DataError, match="say where they are gathered"):
        build_manifest(folder, None, None)
    _, bad, left_out, *_ = build_manifest(FORMATS / "lerobot_v3_image/data", None, None)
    assert not bad and any("a camera of depth" in one.reason for one in left_out)


def test_groot_s_modality_names_parts_and_says_what_they_are(tmp_path):
    folder = changed(tmp_path / "robot", lambda info: None)
    said = {
        "action": {
            "grip": {"start": 2, "end": 3},
            "arm": {"start": 0, "end": 2, "absolute": False, "rotation_type": "axis_angle", "original_key": "action"},
        },
        "state": {"all": {"start": 0, "end": 3, "original_key": "observation.state", "absolute": True}},
        "video": {"ego": {"original_key": "observation.images.wrist"}},
    }
    (folder / "meta/modality.json").write_text(json.dumps(said), encoding="utf-8")
    plain = build_manifest(FORMATS / "lerobot_v21/data", None, None).manifest[0]
    [clip, *_] = build_manifest(folder, None, None).manifest
    assert clip.action.names == ("grip", "arm.x", "arm.y")
    assert clip.action.units == ("not stated", "axis_angle", "axis_angle")
    assert clip.action.frame_of_reference == "grip not stated, arm relative"
    assert np.array_equal(clip.action.values_ND(), plain.action.values_ND()[:, [2, 0, 1]])
    assert clip.state.frame_of_reference == "absolute" and clip.state.names == ("all.x", "all.y", "all.gripper")
    assert [view.view for view in clip.each_view()] == ["front", "ego"]


def test_what_a_modality_does_not_name_is_said(tmp_path):
    """A humanoid's file that names its arms and not its waist."""

    def add(info: dict[str, Any]) -> None:
        info["features"]["action.waist"] = {"dtype": "float32", "shape": [2]}

    folder = changed(tmp_path / "robot", add)
    said = {"action": {"arm": {"start": 1, "end": 2}}, "state": {"all": {"start": 0, "end": 3}}}
    (folder / "meta/modality.json").write_text(json.dumps(said), encoding="utf-8")
    manifest, _, left_out, *_ = build_manifest(folder, None, None)
    assert manifest[0].action.names == ("arm",)
    reasons = [one.reason for one in left_out]
    assert "action: no part of meta/modality.json has its values 0 to 0; they are not read" in reasons
    assert "action: no part of meta/modality.json has its values 2 to 2; they are not read" in reasons
    assert not any(reason.startswith("observation.state") for reason in reasons)
    [waist] = [reason for reason in reasons if reason.startswith("action.waist: ")]
    assert "actions or states that are not read: meta/modality.json" in waist


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ({"arm": {"start": 0, "end": 4}}, "start=0 and end=4 are no part of the 3 values of action"),
        ({"arm": {"start": 1, "end": 1}}, "are no part"),
        ({"arm": {"start": 0, "end": 1, "original_key": "task"}}, "original_key='task' is no feature of numbers"),
        ({"arm": 3}, "modality.json, action.arm is no object"),
    ],
)
def test_a_modality_that_does_not_fit_is_an_error(tmp_path, action, words):
    folder = changed(tmp_path / "robot", lambda info: None)
    (folder / "meta/modality.json").write_text(json.dumps({"action": action}), encoding="utf-8")
    with pytest.raises(DataError, match=words):
        build_manifest(folder, None, None)


def test_complaint_5_dimensions_and_views_have_the_names_that_were_declared():
    """Also where the action is split over columns, as DROID's is, and where cameras are told apart by a middle part."""
    names = {}
    for name in ("split_action", "name_to_index", "one_dim"):
        [clip, *_] = build_manifest(FORMATS / f"lerobot_v3_{name}/data", None, None).manifest
        names[name] = clip.action.names
    assert names == {
        "split_action": ("joint_position.j0", "joint_position.j1", "gripper_position.gripper"),
        "name_to_index": ("delta_x", "delta_y", "delta_z", "gripper"),
        "one_dim": ("speed",),
    }
    assert views_of(["observation.images.front", "observation.images.wrist"]) == ["front", "wrist"]
    assert views_of(["observation.head.rgb", "observation.hand.rgb"]) == ["head.rgb", "hand.rgb"]
    assert views_of(["a.rgb", "b.a.rgb"]) == ["a.rgb", "b.a.rgb"]
    assert views_of(["cam"]) == ["cam"]


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a recorded folder whose info.json was changed."""
    shutil.copytree(FORMATS / "lerobot_v21/data", folder)
    path = folder / "meta/info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    change(info)
    path.write_text(json.dumps(info), encoding="utf-8")
    return folder


def test_depth_is_taken_only_where_it_is_named(tmp_path):
    def mark(info: dict[str, Any]) -> None:
        info["features"]["observation.images.front"]["info"] = {"video.is_depth_map": True}

    folder = changed(tmp_path / "robot", mark)
    manifest, _, left_out, *_ = build_manifest(folder, None, None)
    assert [view.view for view in manifest[0].each_view()] == ["wrist"]
    assert any("a camera of depth" in one.reason for one in left_out)
    names = ["observation.images.wrist", "observation.images.front"]
    manifest, *_ = build_manifest(folder, None, None, cameras=names)
    assert [view.view for view in manifest[0].each_view()] == ["wrist", "front"]
    with pytest.raises(DataError, match="has no camera 'top'"):
        build_manifest(folder, None, None, cameras=["top"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, ("action_0", "action_1", "action_2")),
        ({"left": ["x"], "right": ["x", "y"]}, ("left.x", "right.x", "right.y")),
        ([["a", "b"], "c"], ("a", "b", "c")),
        ({"c": 2, "a": 0, "b": 1}, ("a", "b", "c")),
        (["a", "b"], ("action_0", "action_1", "action_2")),
        ("abc", ("action_0", "action_1", "action_2")),
    ],
)
def test_names_of_dimensions(tmp_path, names, said):
    folder = changed(tmp_path / "robot", lambda info: info["features"]["action"].update(names=names))
    manifest, bad, left_out, *_ = build_manifest(folder, None, None)
    assert not bad and manifest[0].action.names == said
    is_odd = names is not None and "action_0" in said
    assert any("they are numbered instead" in one.reason for one in left_out) == is_odd


def test_files_of_another_rate_are_read_by_time(tmp_path):
    """info.json says 30, the files have 25: 12 frames are 0.4 s, which are 10 of the file's."""
    folder = changed(tmp_path / "robot", lambda info: info.update(fps=30))
    for camera in ("front", "wrist"):
        for number in range(3):
            path = folder / f"videos/chunk-000/observation.images.{camera}/episode_{number:06d}.mp4"
            write_coded(path, range(30), fps=25)
    built = build_manifest(folder, None, None)
    [clip, *_] = built.manifest
    assert not built.bad and (clip.num_frames, clip.fps, clip.action.rate_hz) == (10, 25, 30)
    assert len(clip.action.values_ND()) == 12
    assert "25 fps, its data set says 30" in built.by_time[0]


def test_nearly_equal_rates_are_one_rate(carphone, tmp_path):
    """30 is said and the file has 29.97: frame is counted for frame, however long the episode."""
    write_lerobot(tmp_path / "robot", carphone, "v3.0")
    info = tmp_path / "robot/meta/info.json"
    info.write_text(json.dumps(json.loads(info.read_text(encoding="utf-8")) | {"fps": 30}), encoding="utf-8")
    built = build_manifest(tmp_path / "robot", None, None)
    assert not built.bad and not built.by_time
    assert [(clip.start_frame, clip.num_frames, clip.action.rate_hz) for clip in built.manifest] == [
        (0, 60, pytest.approx(RATE)),
        (60, 60, pytest.approx(RATE)),
    ]


def test_complaint_5_a_published_folder_of_one_file_is_read(carphone, tmp_path):
    """DROID's sample of version 3.0 has other names in its templates, no columns that say where an episode lies, empty
    shapes, and a text without words."""
    write_lerobot(tmp_path / "robot", carphone, "v3.0")
    folder = tmp_path / "robot"
    info = json.loads((folder / "meta/info.json").read_text(encoding="utf-8"))
    info["data_path"] = "data/chunk-{episode_chunk:03d}/file-{episode_file:03d}.parquet"
    info["features"]["action"]["shape"] = []
    (folder / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    table = folder / "meta/episodes/chunk-000/file-000.parquet"
    rows = [{"episode_index": 0, "length": 60, "tasks": [" |  | "]}]
    pq.write_table(pa.Table.from_pylist(rows), table)
    manifest, bad, *_ = build_manifest(folder, None, None)
    assert not bad and manifest[0].caption == "" and manifest[0].num_frames == 60
    action = manifest[0].action
    assert action.names == ("pan", "lift") and action.values_ND()[:2].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    # Another camera, whose name begins as this one's.
    shutil.copytree(folder / "videos/observation.images.wrist", folder / "videos/observation.images.wrist_left")
    info["features"]["observation.images.wrist_left"] = info["features"]["observation.images.wrist"]
    (folder / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    manifest, bad, *_ = build_manifest(folder, None, None)
    assert not bad and [view.view for view in manifest[0].each_view()] == ["wrist", "wrist_left"]
    pq.write_table(pa.Table.from_pylist([*rows, rows[0] | {"episode_index": 1}]), table)
    _, bad, *_ = build_manifest(folder, None, None, max_bad_share=1.0)
    assert len(bad) == 2 and "from_timestamp=None says no time" in bad[0].reason


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("meta/info.json", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("meta/info.json", b"[]", "is no JSON object"),
        ("meta/episodes.jsonl", b'{"episode_index": 0}\n{torn', "line 2"),
        ("meta/tasks.jsonl", b'{"task_index": "0", "task": "a"}', "a row without task_index and text"),
    ],
)
def test_a_damaged_description_is_one_clear_error(tmp_path, name, content, words):
    folder = changed(tmp_path / "robot", lambda info: None)
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        build_manifest(folder, None, None)
    assert words in str(error.value) and name.removesuffix(".jsonl") in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "videos/chunk-000/observation.images.wrist/episode_000001.mp4",
            b"version https://git-lfs.git",
            "it is a text",
        ),
        ("data/chunk-000/episode_000001.parquet", b"<html></html>", "web page"),
        ("data/chunk-000/episode_000001.parquet", b"PAR1 torn", "no Parquet file"),
    ],
)
def test_a_damaged_file_is_one_bad_episode(tmp_path, name, content, words):
    folder = changed(tmp_path / "robot", lambda info: None)
    (folder / name).write_bytes(content)
    manifest, [bad], *_ = build_manifest(folder, None, None, max_bad_share=1.0)
    assert len(manifest) == 2 and words in bad.reason and "1" in bad.path


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"episode_index": 1, "action": [0.0, 1.0]}] * 3, "has 3 rows, its length is"),
        ([{"episode_index": 1, "action": [0.0, 1.0]}] * 17, "has 2 values a frame; meta/info.json says 3"),
        ([{"episode_index": 1, "action": ["a"]}] * 17, "rows that are no numbers"),
        ([{"episode_index": "1", "action": [0.0]}] * 17, "column episode_index holds something else"),
        ([{"action": [0.0, 1.0, 2.0]}] * 17, "no column episode_index"),
        ([{"episode_index": 1}] * 17, "no column action"),
        ([{"episode_index": 1, "task_index": 9, "action": [0.0, 1.0, 2.0]}] * 17, "task_index 9 is not in meta/tasks"),
    ],
)
def test_a_table_that_does_not_fit_is_one_bad_episode(tmp_path, rows, words):
    folder = changed(tmp_path / "robot", lambda info: info["features"].pop("observation.state"))
    length = json.loads((folder / "meta/episodes.jsonl").read_text(encoding="utf-8").splitlines()[1])["length"]
    rows = rows[:1] * (length if len(rows) > 3 else 3)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/chunk-000/episode_000001.parquet")
    manifest, [bad], *_ = build_manifest(folder, None, None, max_bad_share=1.0)
    assert len(manifest) == 2 and words in bad.reason


def test_texts_without_words_are_no_captions():
    assert [text_of(text) for text in (" |  | ", " lift it ", "", "7", "東京")] == ["", "lift it", "", "7", "東京"]


NAMES = st.sampled_from(
    [
        *("codebase_version", "fps", "features", "chunks_size", "data_path", "video_path", "action"),
        *("dtype", "shape", "names", "episode_index", "length", "tasks", "task_index", "task"),
        *("v2.1", "v3.0", "video", "float32", "{episode_index:06d}.parquet", "{video_key}.mp4"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | NAMES,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=4),
    max_leaves=8,
)
FILES = ("meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(info=st.dictionaries(NAMES, JSON, max_size=3), feature=JSON, episode=JSON, task=JSON)
def test_fuzz_any_description_gives_sources_or_a_data_error(tmp_path, info, feature, episode, task):
    good = json.loads((FORMATS / "lerobot_v21/data/meta/info.json").read_text(encoding="utf-8"))
    good["features"]["action"] |= feature if isinstance(feature, dict) else {"names": feature}
    row = {"episode_index": 0, "length": 3, "tasks": ["a"]}
    said = (good | info, row | episode if isinstance(episode, dict) else episode, task)
    (tmp_path / "meta").mkdir(exist_ok=True)
    for name, content in zip(FILES, said, strict=True):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    try:
        assert all(isinstance(one, FoundVideo | BadVideo | LeftOut) for one in read_lerobot(tmp_path))
    except DataError:
        return
