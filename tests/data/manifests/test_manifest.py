import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import SCHEMA_VERSION, VERSION_KEY
from cosmos_data.videos.shown import Rules


def test_round_trip(manifest, tmp_path):
    manifest.write(tmp_path / "deep" / "m.parquet")
    assert Manifest.read(tmp_path / "deep" / "m.parquet") == manifest
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m.parquet"]  # nothing half-written is left


def test_a_write_that_fails_leaves_the_old_file(manifest, tmp_path, monkeypatch):
    path = tmp_path / "m.parquet"
    manifest.write(path)

    def full_disk(table, aside):
        aside.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space"):
        Manifest(manifest.clips[:1]).write(path)
    assert Manifest.read(path) == manifest
    assert list(tmp_path.iterdir()) == [path]


def test_a_moved_folder_has_the_same_digest_and_other_paths(manifest, folder, tmp_path):
    here, there = tmp_path / "here", tmp_path / "elsewhere"
    shutil.copytree(folder, here)
    build_manifest(here, 30, 4, split_shots=False, rules=Rules(pixels="stored")).manifest.write(here / "m.parquet")
    here.rename(there)
    moved = Manifest.read(there / "m.parquet")
    assert moved.digest == manifest.digest
    assert {clip.path for clip in moved} == {str(there / "bikes.mp4"), str(there / "indoors" / "carphone.mp4")}


def test_digest_ignores_the_parquet_encoding(manifest, tmp_path):
    manifest.write(tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    pq.write_table(table, tmp_path / "m.parquet", compression="gzip", row_group_size=1)
    assert Manifest.read(tmp_path / "m.parquet").digest == manifest.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: (replace(clips[0], caption="another"), *clips[1:]),
        lambda clips: (replace(clips[0], digest="0" * 64), *clips[1:]),
        lambda clips: (replace(clips[0], split="heldout"), *clips[1:]),
        lambda clips: (clips[1], clips[0], *clips[2:]),
        lambda clips: clips[1:],
    ],
    ids=["caption", "pixels", "split", "order", "fewer"],
)
def test_digest_changes_with_the_content(manifest, change):
    assert Manifest(change(manifest.clips)).digest != manifest.digest


def test_select(manifest):
    train, heldout = manifest.select("train"), manifest.select("heldout")
    assert [clip.clip_id for clip in heldout] == ["bikes.mp4@90", "bikes.mp4@210", "indoors/carphone.mp4@90"]
    assert len(train) + len(heldout) == len(manifest)
    with pytest.raises(DataError, match="'test' is unknown; use one of train, heldout"):
        manifest.select("test")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("clip_id", ""),
        ("path", "relative.mp4"),
        ("start_frame", -1),
        ("num_frames", 0),
        ("fps", 0.0),
        ("fps", float("nan")),
        ("height_px", 0),
        ("codec", ""),
        ("digest", "abc"),
        ("split", "test"),
    ],
)
def test_bad_row_is_named(manifest, column, value):
    clips = (manifest[0], replace(manifest[1], **{column: value}))
    with pytest.raises(DataError, match=f"row 1, column {column}"):
        Manifest(clips)


def test_a_clip_id_twice(manifest):
    with pytest.raises(DataError, match=r"row 2, column clip_id.*row 0"):
        Manifest((manifest[0], manifest[1], manifest[0]))


def write_table(table: pa.Table, path, version: bytes = str(SCHEMA_VERSION).encode()):
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: version}), path)


@pytest.fixture
def table(manifest, tmp_path) -> pa.Table:
    manifest.write(tmp_path / "source.parquet")
    return pq.read_table(tmp_path / "source.parquet")


def test_wrong_columns(table, tmp_path):
    path = tmp_path / "m.parquet"
    write_table(table.drop_columns(["fps"]), path)
    with pytest.raises(DataError, match="no column fps"):
        Manifest.read(path)
    write_table(table.append_column("mood", pa.array(["good"] * len(table))), path)
    with pytest.raises(DataError, match="unknown columns mood"):
        Manifest.read(path)
    write_table(table.set_column(table.schema.get_field_index("fps"), "fps", table["fps"].cast(pa.float32())), path)
    with pytest.raises(DataError, match="column fps: type float instead of double"):
        Manifest.read(path)


def test_empty_cell(table, tmp_path):
    captions = pa.array(["a", None, *["c"] * (len(table) - 2)])
    column = table.schema.get_field_index("caption")
    write_table(table.set_column(column, pa.field("caption", pa.string()), captions), tmp_path / "m.parquet")
    with pytest.raises(DataError, match="row 1, column caption"):
        Manifest.read(tmp_path / "m.parquet")


def test_other_files_are_refused(table, tmp_path):
    path = tmp_path / "m.parquet"
    write_table(table, path, version=str(SCHEMA_VERSION + 1).encode())
    with pytest.raises(DataError, match=f"version {SCHEMA_VERSION + 1}.*reads up to {SCHEMA_VERSION}.*install a newer"):
        Manifest.read(path)
    pq.write_table(table.replace_schema_metadata(None), path)
    with pytest.raises(DataError, match="not a manifest"):
        Manifest.read(path)
    path.write_text("clip_id,path\n", encoding="utf-8")
    with pytest.raises(DataError, match="not a Parquet file"):
        Manifest.read(path)
    with pytest.raises(DataError, match=r"no manifest at .*absent\.parquet"):
        Manifest.read(tmp_path / "absent.parquet")
