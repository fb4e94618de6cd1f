import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosmos_data.build import build_manifest
from cosmos_data.energon import expand_braces, read_energon
from cosmos_data.errors import DataError
from cosmos_data.found import BadVideo, LeftOut, Source

CAMERA = {
    "convention": "world_to_camera_opencv",
    "intrinsics_px": [100.0, 100.0, 88.0, 72.0],
    "height_px": 144,
    "width_px": 176,
    "extrinsics": [1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0],
}
RATE = 30000 / 1001


def action(num_steps: int) -> dict:
    values = [float(k) for k in range(num_steps)]
    return {"names": ["x"], "units": ["m"], "rate_hz": RATE, "frame_of_reference": "base", "values": values}


@pytest.fixture(scope="module")
def carphone(footage) -> Path:
    """120 frames of 176x144 px."""
    return footage / "carphone_pristine.mp4"


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
        ("{torn", "is not what belongs there"),
        (json.dumps({"action": action(119)}), "119 values; 120 steps of 1"),
        (json.dumps({"weather": "fine"}), "unknown columns weather"),
        (json.dumps({"views": [{"view": "left"}]}), "no video of view 'left'"),
    ],
)
def test_wrong_json_names_its_video(carphone, tmp_path, said, words):
    shutil.copy(carphone, tmp_path / "a.mp4")
    (tmp_path / "a.json").write_text(said, encoding="utf-8")
    _, [bad], *_ = build_manifest(tmp_path, 40, None, max_bad_share=1.0)
    assert words in bad.reason


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


def test_views_that_do_not_belong_together(carphone, footage, tmp_path):
    shutil.copy(carphone, tmp_path / "a.mp4")
    shutil.copy(footage / "bikes.mp4", tmp_path / "b.mp4")
    row = {"path": "a.mp4", "views": [{"path": "b.mp4", "view": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    _, [bad], *_ = build_manifest(tmp_path / "rows.jsonl", 60, None, max_bad_share=1.0)
    assert "view b has 25 fps, the first 29.97" in bad.reason


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_webdataset_tars_are_read_in_place(carphone, tmp_path):
    video = carphone.read_bytes()
    good = {"0.mp4": video, "0.txt": b"a man", "0.json": json.dumps({"camera": CAMERA}).encode(), "0.left.mp4": video}
    write_tar(tmp_path / "a.tar", good)
    write_tar(tmp_path / "b.tar", {"../0.mp4": video})
    write_tar(tmp_path / "c.tar", {"x.mp4": video, "x.json": b'{"views": [{"path": "/etc/passwd"}]}'})
    manifest, bad, *_ = build_manifest(tmp_path, None, None, max_bad_share=1.0)
    [clip] = manifest
    assert (clip.clip_id, clip.caption, [view.view for view in clip.each_view()]) == ("a/0@0", "a man", ["", "left"])
    assert clip.file.read_bytes() == video
    assert "leads out of its folder" in bad[0].reason
    assert "only files of the shard" in bad[1].reason


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
    rows = [{"episode_index": k, "action": [float(k), float(t)]} for k in range(2) for t in range(60)]
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
    assert [clip.clip_id for clip in manifest] == [f"episode_00000{k}@{start}" for k in range(2) for start in (0, 30)]
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
        ({"fps": "fast"}, "not a LeRobot folder that can be read"),
        ({"video_path": "../{video_key}.mp4"}, "leads out of the folder"),
    ):
        info.write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(DataError, match=words):
            build_manifest(tmp_path / "robot", 30, None)


META_NAMES = (".info.json", "split.yaml", "dataset.yaml")
INFO = {"energon_version": "7.4.1", "shard_counts": {f"parts/shard_{k:03d}.tar": 2 for k in range(3)}}
SPLIT = """
split_parts:
  train: ["parts/shard_{000..001}.tar"]
  val: [parts/shard_002.tar]
  test: []
exclude: [parts/shard_001.tar/b]
"""
FIELDS = """
__module__: megatron.energon
__class__: CaptioningSample
field_map: {image: "webm,mp4", caption: "json[texts][0]"}
"""


@pytest.fixture
def energon(carphone, tmp_path) -> Path:
    """Three shards of the samples a and b."""
    said = json.dumps({"texts": ["a man", "another text"], "source": "of somebody"}).encode()
    sample = {"mp4": carphone.read_bytes(), "json": said}
    (tmp_path / "parts").mkdir()
    for name in INFO["shard_counts"]:
        write_tar(tmp_path / name, {f"{key}.{part}": sample[part] for key in "ab" for part in sample})
    write_meta(tmp_path, **{".info.json": json.dumps(INFO), "split.yaml": SPLIT, "dataset.yaml": FIELDS})
    return tmp_path


def write_meta(folder: Path, **files: str) -> None:
    (folder / ".nv-meta").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / ".nv-meta" / name).write_text(content, encoding="utf-8")


def test_an_energon_folder_keeps_its_split_and_captions(energon):
    manifest, bad, *_ = build_manifest(energon, None, 2)
    assert bad == []
    assert [(clip.clip_id, clip.split) for clip in manifest] == [
        ("shard_000/a@0", "train"),
        ("shard_000/b@0", "train"),
        ("shard_001/a@0", "train"),
        ("shard_002/a@0", "heldout"),
        ("shard_002/b@0", "heldout"),
    ]
    assert {clip.caption for clip in manifest} == {"a man"}
    (energon / ".nv-meta/.info.json").unlink()
    counts = "".join(f"\n  {name}: 2" for name in INFO["shard_counts"])
    write_meta(energon, **{".info.yaml": f"shard_counts:{counts}", "dataset.yaml": "__class__: CrudeWebdataset"})
    manifest, *_ = build_manifest(energon, None, None)
    assert len(manifest) == 5 and {clip.caption for clip in manifest} == {""}, "it has no .txt"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("split.yaml", "split_parts: {train: [other.tar]}", "the split names other.tar, which is no shard"),
        ("split.yaml", "split_parts: [a", "is not what energon writes"),
        ("split.yaml", "exclude: []", r"KeyError\('split_parts'\)"),
        (".info.json", "[]", "is not what energon writes"),
        (".info.json", json.dumps({"shard_counts": {"../a.tar": 1}}), "which is no shard"),
    ],
)
def test_what_energon_would_not_write(energon, name, content, said):
    write_meta(energon, **{name: content})
    with pytest.raises(DataError, match=said):
        build_manifest(energon, None, None)


def test_an_energon_shard_outside_of_its_folder_is_refused(energon):
    counts = json.dumps({"shard_counts": {"../a.tar": 1}})
    write_meta(energon, **{".info.json": counts, "split.yaml": "split_parts: {train: [../a.tar]}"})
    with pytest.raises(DataError, match=r"shard '../a.tar' has a name that leads out of its folder"):
        build_manifest(energon, None, None)


def test_a_sample_whose_caption_is_elsewhere_is_named(energon):
    write_meta(energon, **{"dataset.yaml": FIELDS.replace("[texts]", "[caption]")})
    _, bad, *_ = build_manifest(energon, None, None, max_bad_share=1.0)
    assert len(bad) == 5 and "KeyError('caption')" in bad[0].reason and bad[0].path.endswith("shard_000.tar/a")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{8..10}.tar", ["8.tar", "9.tar", "10.tar"]),
        ("{x,y}_{00..01}", ["x_00", "x_01", "y_00", "y_01"]),
    ],
)
def test_braces(name, names):
    assert expand_braces(name) == names


def test_braces_that_name_too_much():
    for name in ("{0..1000000}.tar", "{0..2000}_{0..2000}.tar"):
        with pytest.raises(DataError, match="names more than 1000000 shards"):
            expand_braces(name)


NAMES = st.sampled_from([*META_NAMES, "a.tar", "b.mp4", "split_parts", "shard_counts", "exclude", "field_map", "train"])
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | NAMES,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.sampled_from(META_NAMES), JSON | st.text(max_size=40), min_size=1))
def test_fuzz_energon_s_files_give_sources_or_a_data_error(tmp_path, files):
    good = {".info.json": {"shard_counts": {"a.tar": 1}}, "split.yaml": {"split_parts": {"train": ["a.tar"]}}}
    write_tar(tmp_path / "a.tar", {"b.mp4": b"1", "b.txt": b"2", "b.json": b"{}"})
    write_meta(tmp_path, **{name: json.dumps(content) for name, content in (good | files).items()})
    try:
        assert all(isinstance(source, Source | BadVideo | LeftOut) for source in read_energon(tmp_path))
    except DataError:
        return


def test_a_byte_order_mark_is_no_part_of_a_caption(carphone, tmp_path):
    for name, text in (("a", "\ufeffa man talks\n"), ("b", "\ufeff")):
        shutil.copy(carphone, tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    manifest, *_ = build_manifest(tmp_path, None, None, split_shots=False)
    assert [clip.caption for clip in manifest] == ["a man talks", ""]
