import shutil
from pathlib import Path

import pytest
from support.coded_pictures import numbers_of

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.readers.metadataset import is_metadataset, read_metadataset

ENERGON = Path(__file__).parent / "formats/energon"


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copytree(ENERGON, tmp_path / "sets")
    return tmp_path / "sets"


def test_the_blend_that_energon_wrote(folder):
    assert is_metadataset(folder / "blend.yaml")
    parts, forgotten = read_metadataset(folder / "blend.yaml")
    assert [(part.folder.name, part.weight, part.splits) for part in parts] == [
        ("first", 0.75, {"train": "train", "val": "heldout"}),
        ("second", 0.25, {"train": "train"}),
    ]
    assert forgotten == ["subflavors"]
    manifest, _, left_out, *_ = build_manifest(parts[1].folder, None, None, splits=parts[1].splits)
    assert [numbers_of(clip)[0] for clip in manifest] == [40, 45, 51] and {clip.split for clip in manifest} == {"train"}
    assert "part val, which is not asked for" in left_out[0].reason


def test_levels_share_their_weight(folder):
    (folder / "inner.yaml").write_text(
        "splits: {train: {datasets: [{weight: 1, path: first}, {weight: 3, path: second}]}}"
    )
    (folder / "outer.yaml").write_text(
        "splits: {train: {blend: [{weight: 2, path: inner.yaml}, {weight: 2, blend: [{path: first}]}]}}"
    )
    parts, _ = read_metadataset(folder / "outer.yaml")
    assert {part.folder.name: part.weight for part in parts} == {"first": 0.625, "second": 0.375}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("a: 1", "no metadataset of energon"),
        ("splits: {val: {path: first}}", "names nothing to train on"),
        ("splits: {train: {join: []}}", "join is not read here"),
        ("splits: {train: {blend_epochized: []}}", "blend_epochized is not read here"),
        ("splits: {train: {blend: []}}", "its blend is no list"),
        ("splits: {train: {blend: [1]}}", "is no entry"),
        ("splits: {train: {blend: [{weight: .nan, path: first}]}}", "no number greater than 0"),
        ("splits: {train: {blend: [{weight: 0, path: first}]}}", "no number greater than 0"),
        ("splits: {train: {path: 3}}", "no path of this machine"),
        ("splits: {train: {path: s3://b/c}}", "no path of this machine"),
        ("splits: {train: {path: nowhere}}", "neither an energon folder"),
        ("splits: {train: {path: loop.yaml}}", "more than 8 levels"),
        ("splits: {train: {path: first}, val: {path: first, split_part: train}}", "is in train and held out"),
    ],
)
def test_what_is_no_blend_is_refused_by_name(folder, text, words):
    (folder / "loop.yaml").write_text(text)
    with pytest.raises(DataError) as error:
        read_metadataset(folder / "loop.yaml")
    assert words in str(error.value)


def test_a_part_that_a_folder_does_not_have(folder):
    with pytest.raises(DataError, match="no part 'dev'; it has train, val, test"):
        build_manifest(folder / "first", None, None, splits={"dev": "train"})
