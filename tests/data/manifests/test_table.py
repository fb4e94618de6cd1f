from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.clips import CLIP

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests import table
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import Part, SamplePlan


def many(num_clips: int) -> Manifest:
    """Of both splits, with digests of their own."""
    return Manifest(
        replace(CLIP, clip_id=f"c{row}", digest=f"{row:064x}", split="heldout" if row % 5 == 4 else "train")
        for row in range(num_clips)
    )


def test_a_mapped_manifest_is_the_one_that_was_written(manifest, tmp_path):
    manifest.write(tmp_path / "m.arrow")
    mapped = Manifest.read(tmp_path / "m.arrow")
    assert mapped == manifest and mapped.digest == manifest.digest
    assert mapped.select("heldout") == manifest.select("heldout")
    assert mapped.select("heldout").digest == manifest.select("heldout").digest
    assert [path.name for path in tmp_path.iterdir()] == ["m.arrow"]
    mapped.write(tmp_path / "again.parquet")
    assert Manifest.read(tmp_path / "again.parquet").digest == manifest.digest


def test_rows_in_any_batch(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "BATCH_ROWS", 7)
    clips = many(40)
    clips.write(tmp_path / "m.arrow")
    mapped = Manifest.read(tmp_path / "m.arrow")
    assert [mapped[row].clip_id for row in (0, 6, 7, 39)] == ["c0", "c6", "c7", "c39"]
    assert mapped.column("clip_id").tolist() == [f"c{row}" for row in range(40)]
    config = DataConfig(manifest="m", num_frames=9, height_px=64, width_px=96)
    plans = [SamplePlan([Part(one.select("train"))], 3, config) for one in (clips, mapped)]
    assert [plans[0].sample(i) for i in range(50)] == [plans[1].sample(i) for i in range(50)]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**20), edit=st.binary(min_size=1, max_size=3), cut=st.booleans())
def test_any_change_of_a_byte_is_seen(tmp_path, place, edit, cut):
    path = tmp_path / "m.arrow"
    many(3).write(path)
    content = path.read_bytes()
    place %= len(content)
    changed = content[:place] if cut else content[:place] + edit + content[place + len(edit) :]
    path.write_bytes(changed)
    if changed == content:
        Manifest.read(path)
        return
    with pytest.raises(DataError):
        Manifest.read(path)


def test_a_table_of_another_program(tmp_path):
    path = tmp_path / "m.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("a", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"a": [1]}))
    with pytest.raises(DataError, match="not a manifest of cosmos-train"):
        Manifest.read(path)


def test_a_file_that_one_process_has_verified_is_opened_without_reading_it(tmp_path, monkeypatch):
    path = tmp_path / "m.arrow"
    many(3).write(path)
    monkeypatch.setattr(table, "_file_sha256", lambda *_: pytest.fail("it was read"))
    assert len(Manifest.read(path, verify=False)) == 3
