"""A latent cache: windows and texts come back exactly, at a cost that does not grow with the cache; what is wrong with
its files is told."""

import hashlib
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

from cosmos_data.caches import shard_file
from cosmos_data.caches.latent_shards import WindowRow, open_latent_shard, windows_per_shard, write_latent_shard
from cosmos_data.caches.latents import (
    INDEX_NAME,
    LatentMetadata,
    LatentStore,
    entry_of,
    index_digest,
    is_finished,
    write_index,
)
from cosmos_data.caches.shard_file import key_of
from cosmos_data.caches.text_shards import write_text_shard
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.conditions import Action, Camera, EgoTrajectory
from cosmos_data.sample_plan.window_conditions import WindowConditions

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
    assert torch.equal(window.z_CTHW, latents_of(1, 2)[1])
    assert window.z_CTHW.dtype == torch.bfloat16
    assert torch.equal(window.text_SE, text_of(5))
    assert window.text_SE[4].any() and not window.padding_1HW.any()
    said = {"fps": 25.0, "clip_id": "bikes@30", "start_frame": 39, "split": "heldout", "caption": "a road"}
    assert {k: getattr(window, k) for k in said} == {k: getattr(store.describe(5), k) for k in said} == said
    short = store.window(3)
    assert torch.equal(short.text_SE, torch.cat([text_of(2), torch.zeros(3, 6)]))
    assert not short.text_SE[2:].any() and short.caption == ""
    with pytest.raises(IndexError):
        store.window(6)


def test_a_cache_of_one_shape_keeps_its_digest_between_versions(tmp_path: Path):
    """Runs that began on such a cache, or on one that is made again, go on."""
    write(tmp_path / "cache")
    store = LatentStore(tmp_path / "cache")
    assert store.digest == "8fc8219ad0054a9d94d794dbaa4ceba4b2b7745a2205a4ff76431599e3592f79"
    shards = [*shards_of(store.folder, "windows"), *shards_of(store.folder, "text")]
    content = b"".join(path.read_bytes() for path in shards)
    assert hashlib.sha256(content).hexdigest() == "3932610ebea64db1126c9edddf8b5b2b3004da255bae743002b1010ddfaf53e9"
    assert json.loads((store.folder / INDEX_NAME).read_text(encoding="utf-8"))["version"] == 2


TALL, WIDE = (4, 2, 12, 8), (4, 2, 8, 12)


def write_two_shapes(folder: Path) -> LatentStore:
    """Of windows of 64x96 px, and of 96x64 of whose pictures a part is padding."""
    writer = LatentWriter(folder, METADATA)
    writer.add_text("a road", text_of(5))
    clips: list[tuple[Split, tuple[int, ...]]]
    clips = [("train", TALL), ("train", WIDE), ("heldout", WIDE), ("train", TALL)]
    for number, (split, shape) in enumerate(clips):
        z_NCTHW = torch.full((2, *shape), float(number))
        is_tall = shape == TALL
        writer.add_clip(
            f"clip{number}",
            z_NCTHW,
            [0, 9],
            split=split,
            caption="a road",
            fps=25.0,
            size_px=(96, 64) if is_tall else None,
            inner_px=(32, 0, 64, 64) if is_tall else None,
        )
    writer.finish()
    return LatentStore(folder)


def test_several_shapes(tmp_path: Path):
    """Windows of a split lie by their shapes; each shard has one, and says the size of its windows."""
    store = write_two_shapes(tmp_path)
    store.verify()
    assert store.shapes == (WIDE, TALL)
    ranges = [store.indices("train", WIDE), store.indices("train", TALL), store.indices("heldout", WIDE)]
    assert ranges == [range(2), range(2, 6), range(6, 8)]
    assert store.indices("train") == range(6) and not store.indices("heldout", TALL)
    for shape in store.shapes:
        assert {tuple(store.window(k).z_CTHW.shape) for k in store.indices("train", shape)} == {shape}
    numbers = [int(store.window(k).z_CTHW.flatten()[0]) for k in range(8)]
    assert numbers == [1, 1, 0, 0, 3, 3, 2, 2]
    padding_1HW = store.window(2).padding_1HW
    assert padding_1HW.shape == (1, 12, 8) and padding_1HW[0].all(dim=1).tolist() == [row < 4 for row in range(12)]
    with pytest.raises(
        DataError, match=r"shapes \(4, 2, 8, 12\), \(4, 2, 12, 8\), and one shape is wanted here; make one"
    ):
        _ = store.latent_shape
    assert json.loads((tmp_path / INDEX_NAME).read_text(encoding="utf-8"))["version"] == 3, "nobody older misreads it"


CONDITIONS = WindowConditions(
    camera=Camera(
        convention="world_to_camera_opencv",
        intrinsics_px=(100.0, 100.0, 1 / 3, 36.0),
        height_px=64,
        width_px=96,
        extrinsics=(1.0, 0.0, 0.0, 0.1, 0.0, 1.0, 0.0, 0.2, 0.0, 0.0, 1.0, 0.3) * 9,
    ),
    action=Action(names=("x",), units=("m",), rate_hz=5.0, frame_of_reference="base", values=(0.5, 1e-17)),
    ego_trajectory=EgoTrajectory(rate_hz=10.0, frame_of_reference="the first frame", positions_m=(0.5,) * 30),
    view="front",
)


def test_conditions_come_with_their_windows(tmp_path: Path):
    """All, some or none; a shard needs no manifest."""
    writer = LatentWriter(tmp_path, replace(METADATA, conditions="camera action ego_trajectory view"))
    writer.add_text("a road", text_of(5))
    described = [CONDITIONS, WindowConditions(action=CONDITIONS.action), WindowConditions()]
    for number, conditions in enumerate(described):
        z_NCTHW = latents_of(number, 1)
        writer.add_clip(f"clip{number}", z_NCTHW, [0], split="train", caption="a road", fps=25.0, conditions=conditions)
    writer.finish()
    store = LatentStore(tmp_path)
    store.verify()
    assert [store.window(k).conditions for k in range(3)] == described
    assert [store.describe(k).conditions for k in range(3)] == described
    path = next(path for path in shards_of(tmp_path, "windows") if b"front" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"front", b"fornt"))
    with pytest.raises(DataError, match="has changed since it was written"):
        store.verify()


def test_a_cache_without_its_clips_conditions_is_told(tmp_path: Path):
    """One that was made before they were kept."""
    write(tmp_path / "cache")
    with pytest.raises(
        DataError, match="was made with conditions=, and this run has camera action; remove it and make"
    ):
        LatentStore(tmp_path / "cache").require(conditions="camera action")


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
    """(lines of cosmos_data that run, KiB that objects take meanwhile): the second is for what C does in one line."""
    lines = []

    def trace(frame: FrameType, event: str, argument: object) -> Callable | None:
        if not frame.f_globals["__name__"].startswith(
            "cosmos_data."
        ):  # torch's depend on what ran before in this process
            return None
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
    assert 0 < small["again"][0] < 200


def test_shards_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, opened = write_many(tmp_path, per_shard=20), []
    map_file = pa.memory_map
    monkeypatch.setattr(shard_file.pa, "memory_map", lambda path: opened.append(path) or map_file(path))
    for k in (0, 25, 19, 39, 5):
        assert torch.equal(store.window(k).z_CTHW, latents_of(k // 20, 20)[k % 20])
    assert len(opened) == 4 == len(set(opened)), "two of windows, two of texts"


def test_a_forked_process_reads_what_is_open(tmp_path: Path):
    store = write_many(tmp_path, per_shard=20)
    store.window(0)
    child = os.fork()
    if child == 0:
        same = [torch.equal(store.window(k).z_CTHW, latents_of(k // 20, 20)[k % 20]) for k in (0, 7, 25)]
        os._exit(0 if all(same) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(store.window(7).z_CTHW, latents_of(0, 20)[7])


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
    newer = index | {"version": 4}
    path.write_text(json.dumps(newer | {"digest": index_digest(newer)}))
    with pytest.raises(DataError, match=r"version 4.*reads versions 2 and 3.*install a newer"):
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
        ("types", latents_of(1, 1).float(), text_of(2)),
        ("channels", latents_of(1, 1)[:, :3], text_of(2)),
        ("frames", latents_of(1, 1)[:, :, :1], text_of(2)),
        ("texts", latents_of(1, 1), text_of(2).double()),
    ):
        writer = LatentWriter(tmp_path / name, METADATA)
        writer.add_text("x", text_of(2))
        writer.add_text("y", states)
        writer.add_clip("a", latents_of(0, 1), [0], split="train", caption="x", fps=25.0)
        writer.add_clip("b", z, [0], split="train", caption="y", fps=25.0)
        with pytest.raises(DataError, match=r"as many channels and as many frames|text states differ in width or type"):
            writer.finish()


def test_windows_in_a_shard():
    assert windows_per_shard((4, 2, 8, 12), torch.float32, 2**20) == 341
    assert windows_per_shard((4, 2, 8, 12), torch.bfloat16, 2**20) == 682
    assert windows_per_shard((4, 2, 8, 12), torch.float32, 1) == 1
