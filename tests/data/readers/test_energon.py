import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.coded_pictures import numbers_of
from support.tars import write_tar

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.readers.energon import expand_braces, read_energon
from cosmos_data.readers.found import BadVideo, FoundVideo, LeftOut

FORMATS = Path(__file__).parent / "formats/energon"
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
        write_tar(tmp_path / name, {f"{key}.{part}": sample[part] for key, part in product("ab", sample)})
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
        ("parts/shard_000/a@0", "train"),
        ("parts/shard_000/b@0", "train"),
        ("parts/shard_001/a@0", "train"),
        ("parts/shard_002/a@0", "heldout"),
        ("parts/shard_002/b@0", "heldout"),
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
        assert all(isinstance(source, FoundVideo | BadVideo | LeftOut) for source in read_energon(tmp_path))
    except DataError:
        return


@pytest.mark.parametrize(("name", "field"), [("first", "json_caption"), ("second", "txt")])
def test_folders_that_energon_prepared(name, field):
    """Written by `energon prepare`; expected.json says what was put into them."""
    manifest, bad, *_ = build_manifest(FORMATS / name, None, None)
    assert not bad
    expected = json.loads((FORMATS / "expected.json").read_text(encoding="utf-8"))[name]
    by_name = {f"{one['shard'].removesuffix('.tar')}/{one['key']}@0": one for one in expected}
    assert {clip.clip_id for clip in manifest} == set(by_name)
    for clip in manifest:
        one = by_name[clip.clip_id]
        assert (clip.caption, numbers_of(clip)) == (one[field], one["codes"])
        assert clip.split == ("train" if "0" in one["shard"][-5:] else "heldout")
