"""A latent cache: windows and texts come back exactly, at a cost that does not grow with the cache; what is wrong with
its files is told."""

import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pyarrow as pa
import pytest
import torch
from support.latent_cache import LatentWriter

from cosmos_data import shard_file
from cosmos_data.errors import DataError
from cosmos_data.latent_shards import WindowRow, open_latent_shard, windows_per_shard, write_latent_shard
from cosmos_data.latents import (
    INDEX_NAME,
    LatentMetadata,
    LatentStore,
    entry_of,
    index_digest,
    is_finished,
    write_index,
)
from cosmos_data.shard_file import key_of
from cosmos_data.text_shards import write_text_shard

METADATA = LatentMetadata(
    tokenizer_digest="tok1",
    text_encoder="minilm",
    manifest_digest="man1",
    window_frames=9,
    height_px=64,
    width_px=96,
)


def latents_of(number: int, num_windows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(num_windows, 4, 2, 8, 12, generator=generator).to(torch.bfloat16)


def text_of(length: int) -> torch.Tensor:
    return torch.arange(length * 6).view(length, 6).float() + 1


def write(folder: Path, *, metadata: LatentMetadata = METADATA, finish: bool = True) -> LatentWriter:
    writer = LatentWriter(folder, metadata)
    writer.add_clip("bikes@0", latents_of(0, 3), [0, 9, 18], split="train", caption="a road", fps=25.0)
    writer.add_clip("bikes@30", latents_of(1, 2), [30, 39], split="heldout", caption="a road", fps=25.0)
    writer.add_clip("carphone@0", latents_of(2, 1), [4], split="train", caption="", fps=29.97)
    writer.add_text("a road", text_of(5))
    writer.add_text("", text_of(2))
    if finish:
        writer.finish()
    return writer


def shards_of(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).glob("*.arrow"))


def test_round_trip(tmp_path: Path):
    """Windows of the training split come first."""
    write(tmp_path / "cache")
    store = LatentStore(tmp_path / "cache")
    assert len(store) == 6
    assert store.metadata == METADATA
    assert store.latent_shape == (4, 2, 8, 12)
    assert list(store.indices("train")) == [0, 1, 2, 3]
    assert list(store.indices("heldout")) == [4, 5]
    window = store.window(5)
    assert torch.equal(window["z_CTHW"], latents_of(1, 2)[1])
    assert window["z_CTHW"].dtype == torch.bfloat16
    assert torch.equal(window["text_SE"], text_of(5))
    said = {"fps": 25.0, "clip_id": "bikes@30", "start_frame": 39, "split": "heldout", "caption": "a road"}
    assert {k: window[k] for k in ("text_length", *said)} == {"text_length": 5, **said}
    assert {k: getattr(store.describe(5), k) for k in said} == said
    short = store.window(3)
    assert torch.equal(short["text_SE"], torch.cat([text_of(2), torch.zeros(3, 6)]))
    assert short["text_length"] == 2 and short["caption"] == ""
    with pytest.raises(IndexError):
        store.window(6)


def write_many(folder: Path, *, per_shard: int) -> LatentStore:
    """Two shards, of windows with a caption each."""
    entries = []
    for number in range(2):
        texts = {f"caption {number} {k}": text_of(1 + k % 3) for k in range(per_shard)}
        text = write_text_shard(folder, "minilm", texts)
        rows = [WindowRow(clip_id=f"{number}@{k}", start_frame=0, text_row=k, fps=24.0) for k in range(per_shard)]
        shard = write_latent_shard(
            folder,
            key_of(number),
            rows,
            latents_of(number, per_shard),
            split="train",
            tokenizer_digest="tok1",
            text=text.file.path.stem,
        )
        entries.append(entry_of(folder, shard, text))
    write_index(folder, METADATA, entries)
    return LatentStore(folder)


def cost_of(function: Callable[[], object]) -> tuple[int, int]:
    """(lines of Python that run, KiB that objects take meanwhile): the second is for what C does in one line."""
    lines = []

    def trace(frame: FrameType, event: str, argument: object) -> Callable:
        lines.append(event)
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return len(lines), peak // 2**10


def test_costs_do_not_grow_with_clips_and_captions(tmp_path: Path):
    """Of opening, of the first window and of further ones."""
    costs = []
    for per_shard in (20, 2000):
        folder = write_many(tmp_path / str(per_shard), per_shard=per_shard).folder
        store = LatentStore(folder)
        store.window(0)  # what Python does once
        store.describe(0)
        costs.append(
            {
                "open": cost_of(lambda folder=folder: LatentStore(folder)),
                "first": cost_of(lambda folder=folder: LatentStore(folder).window(3)),
                "again": cost_of(lambda store=store: store.window(7)),
                "describe": cost_of(lambda store=store: store.describe(7)),
            }
        )
    small, large = costs
    for name, (lines, kib) in small.items():
        assert large[name][0] == lines, name
        assert large[name][1] <= kib + 8, name
    assert small["again"][0] < 200


def test_shards_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, opened = write_many(tmp_path, per_shard=20), []
    map_file = pa.memory_map
    monkeypatch.setattr(shard_file.pa, "memory_map", lambda path: opened.append(path) or map_file(path))
    for k in (0, 25, 19, 39, 5):
        assert torch.equal(store.window(k)["z_CTHW"], latents_of(k // 20, 20)[k % 20])
    assert len(opened) == 4 == len(set(opened)), "two of windows, two of texts"


def test_a_forked_process_reads_what_is_open(tmp_path: Path):
    store = write_many(tmp_path, per_shard=20)
    store.window(0)
    child = os.fork()
    if child == 0:
        same = [torch.equal(store.window(k)["z_CTHW"], latents_of(k // 20, 20)[k % 20]) for k in (0, 7, 25)]
        os._exit(0 if all(same) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(store.window(7)["z_CTHW"], latents_of(0, 20)[7])


def test_the_digest_names_the_content(tmp_path: Path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert LatentStore(tmp_path / "a").digest == LatentStore(tmp_path / "b").digest
    writer = write(tmp_path / "c", finish=False)
    writer.add_text("", text_of(3))
    assert writer.finish() == LatentStore(tmp_path / "c").digest != LatentStore(tmp_path / "a").digest
    (tmp_path / "a").rename(tmp_path / "moved")
    assert LatentStore(tmp_path / "moved").digest == LatentStore(tmp_path / "b").digest


def test_an_incomplete_folder_is_refused(tmp_path: Path):
    write(tmp_path / "cache")
    assert is_finished(tmp_path / "cache")
    (tmp_path / "cache" / INDEX_NAME).unlink()
    for folder in (tmp_path / "cache", tmp_path / "absent"):
        assert not is_finished(folder)
        with pytest.raises(DataError, match=r"no complete latent cache \(index.json is missing\); make it with"):
            LatentStore(folder)


@pytest.mark.parametrize("kind", ["windows", "text"])
def test_missing_cut_off_and_changed_shards(tmp_path: Path, kind: str):
    write(tmp_path / "cache")
    path = shards_of(tmp_path / "cache", kind)[0]
    content = path.read_bytes()
    for changed, said in ((content[:-1], "is missing or was cut off"), (None, "is missing or was cut off")):
        path.unlink() if changed is None else path.write_bytes(changed)
        with pytest.raises(DataError, match=f"{path.name} {said}; remove it, and index.json where the folder has one"):
            LatentStore(tmp_path / "cache")


@pytest.mark.parametrize(("kind", "tensor"), [("windows", latents_of(1, 2)), ("text", text_of(5))])
def test_changed_bytes_are_found_by_verification(tmp_path: Path, kind: str, tensor: torch.Tensor):
    write(tmp_path / "cache")
    LatentStore(tmp_path / "cache").verify()
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    [path] = [path for path in shards_of(tmp_path / "cache", kind) if data in path.read_bytes()]
    content = path.read_bytes()
    path.write_bytes(content.replace(data, data[:-1] + bytes([data[-1] ^ 1])))
    with pytest.raises(DataError, match=f"{path.name} has changed since it was written"):
        LatentStore(tmp_path / "cache").verify()


@pytest.mark.parametrize("name", [b"bikes@30", b"a road"])
def test_a_changed_row_is_found_by_verification(tmp_path: Path, name: bytes):
    write(tmp_path / "cache")
    [path] = [path for path in (tmp_path / "cache").glob("*/*.arrow") if name in path.read_bytes()]
    path.write_bytes(path.read_bytes().replace(name, b"B" + name[1:]))
    with pytest.raises(DataError, match=f"{path.name} has changed since it was written"):
        LatentStore(tmp_path / "cache").verify()


def test_shards_of_others(tmp_path: Path):
    """Another tokenizer's; one of the same name with other bytes; one under another's name."""
    write(tmp_path / "cache")
    write(tmp_path / "other", metadata=replace(METADATA, tokenizer_digest="tok2"))
    path = shards_of(tmp_path / "cache", "windows")[0]
    kept, others = path.read_bytes(), (tmp_path / "other" / "windows" / path.name).read_bytes()
    assert len(kept) == len(others)
    path.write_bytes(others)
    with pytest.raises(DataError, match="was made with tokenizer_digest=tok2, and this latent cache is of tok1"):
        LatentStore(tmp_path / "cache").verify()
    path.write_bytes(kept)
    texts = shards_of(tmp_path / "cache", "text")
    changed = {"a road": text_of(5) + 1} if b"a road" in texts[0].read_bytes() else {"": text_of(2) + 1}
    write_text_shard(tmp_path / "again", "minilm", changed)
    texts[0].write_bytes((tmp_path / "again" / "text" / texts[0].name).read_bytes())
    with pytest.raises(DataError, match="is another shard of the same name than the index was written for"):
        LatentStore(tmp_path / "cache").verify()
    one, two = shards_of(tmp_path / "other", "windows")[:2]
    one.write_bytes(two.read_bytes())
    with pytest.raises(DataError, match="holds another shard than its name says"):
        open_latent_shard(tmp_path / "other", one.stem, "tok2")


def test_what_the_latents_depend_on_is_required(tmp_path: Path):
    write(tmp_path / "cache")
    store = LatentStore(tmp_path / "cache")
    store.require(tokenizer_digest="tok1", text_encoder="minilm", manifest_digest="man1", window_frames=9)
    for name, value in (
        ("tokenizer_digest", "tok2"),
        ("text_encoder", "t5"),
        ("manifest_digest", "man2"),
        ("window_frames", 17),
        ("height_px", 128),
        ("frame_stride", 2),
    ):
        with pytest.raises(DataError, match=f"made with {name}=.*this run has {value}; remove it and make it again"):
            store.require(**{name: value})


def test_edited_newer_older_and_garbled_indices(tmp_path: Path):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / INDEX_NAME
    index = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(index | {"metadata": index["metadata"] | {"tokenizer_digest": "tok2"}}))
    with pytest.raises(DataError, match="was edited"):
        LatentStore(tmp_path / "cache")
    newer = index | {"version": 3}
    path.write_text(json.dumps(newer | {"digest": index_digest(newer)}))
    with pytest.raises(DataError, match=r"version 3.*reads version 2.*install a newer"):
        LatentStore(tmp_path / "cache")
    path.write_text(json.dumps({"version": 1, "metadata": {}, "windows": [], "digest": "of format 1"}))
    with pytest.raises(DataError, match=r"latent cache of version 1, .*; remove it and make it again with `cos"):
        LatentStore(tmp_path / "cache")
    for text in ("{", "[]", '"text"'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"make (the latent cache|it) again"):
            LatentStore(tmp_path / "cache")


def test_what_does_not_belong_together(tmp_path: Path):
    with pytest.raises(DataError, match="no window was added"):
        write_index(tmp_path / "new", METADATA, [])
    with pytest.raises(DataError, match="for 2 windows; expected"):
        rows = [WindowRow(clip_id="a", start_frame=k, text_row=0, fps=24.0) for k in range(2)]
        write_latent_shard(tmp_path, "0", rows, latents_of(0, 3), split="train", tokenizer_digest="", text="")
    with pytest.raises(DataError, match=r"shape \(0, 6\); expected \[S, E\]"):
        write_text_shard(tmp_path, "minilm", {"x": torch.zeros(0, 6)})
    with pytest.raises(DataError, match="differ in width or type"):
        write_text_shard(tmp_path, "minilm", {"x": torch.zeros(1, 6), "y": torch.zeros(1, 5)})
    for name, z, states in (
        ("shapes", latents_of(1, 1).float(), text_of(2)),
        ("texts", latents_of(1, 1), text_of(2).double()),
    ):
        writer = LatentWriter(tmp_path / name, METADATA)
        writer.add_text("x", text_of(2))
        writer.add_text("y", states)
        writer.add_clip("a", latents_of(0, 1), [0], split="train", caption="x", fps=25.0)
        writer.add_clip("b", z, [0], split="train", caption="y", fps=25.0)
        with pytest.raises(DataError, match=r"one shape and type|text states differ in width or type"):
            writer.finish()


def test_windows_in_a_shard():
    assert windows_per_shard((4, 2, 8, 12), torch.float32, 2**20) == 341
    assert windows_per_shard((4, 2, 8, 12), torch.bfloat16, 2**20) == 682
    assert windows_per_shard((4, 2, 8, 12), torch.float32, 1) == 1
