import json

import pytest
import torch

from cosmos_data.errors import DataError
from cosmos_data.latents import INDEX_NAME, TEXT_NAME, LatentMetadata, LatentStore, LatentWriter, index_digest

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


def write(folder, *, metadata: LatentMetadata = METADATA, finish: bool = True) -> LatentWriter:
    writer = LatentWriter(folder, metadata)
    writer.add_clip("bikes@0", latents_of(0, 3), [0, 9, 18], split="train", caption="a road", fps=25.0)
    writer.add_clip("bikes@30", latents_of(1, 2), [30, 39], split="heldout", caption="a road", fps=25.0)
    writer.add_clip("carphone@0", latents_of(2, 1), [4], split="train", caption="", fps=29.97)
    writer.add_text("a road", text_of(5))
    writer.add_text("", text_of(2))
    if finish:
        writer.finish()
    return writer


def test_round_trip(tmp_path):
    write(tmp_path / "cache")
    store = LatentStore(tmp_path / "cache")
    assert len(store) == 6
    assert store.metadata == METADATA
    assert store.latent_shape == (4, 2, 8, 12)
    assert store.indices("train") == [0, 1, 2, 5]
    assert store.indices("heldout") == [3, 4]
    window = store.window(4)
    assert torch.equal(window["z_CTHW"], latents_of(1, 2)[1])
    assert window["z_CTHW"].dtype == torch.bfloat16
    assert torch.equal(window["text_SE"], text_of(5))
    assert {k: window[k] for k in ("text_length", "fps", "clip_id", "start_frame", "split", "caption")} == {
        "text_length": 5,
        "fps": 25.0,
        "clip_id": "bikes@30",
        "start_frame": 39,
        "split": "heldout",
        "caption": "a road",
    }
    short = store.window(5)
    assert torch.equal(short["text_SE"], torch.cat([text_of(2), torch.zeros(3, 6)]))
    assert short["text_length"] == 2


def test_the_digest_names_the_content(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert LatentStore(tmp_path / "a").digest == LatentStore(tmp_path / "b").digest
    writer = write(tmp_path / "c", finish=False)
    writer.add_text("", text_of(3))
    assert writer.finish() == LatentStore(tmp_path / "c").digest != LatentStore(tmp_path / "a").digest
    (tmp_path / "a").rename(tmp_path / "moved")
    assert LatentStore(tmp_path / "moved").digest == LatentStore(tmp_path / "b").digest


def test_an_incomplete_folder_is_refused(tmp_path):
    write(tmp_path / "cache", finish=False)
    with pytest.raises(DataError, match=r"no complete latent cache \(index.json is missing\)"):
        LatentStore(tmp_path / "cache")
    with pytest.raises(DataError, match="no complete latent cache"):
        LatentStore(tmp_path / "absent")


@pytest.mark.parametrize("name", ["clips/000001.safetensors", TEXT_NAME])
def test_missing_cut_off_and_changed_files(tmp_path, name):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{name} has changed"):
        LatentStore(tmp_path / "cache").verify()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{name} is missing or was cut off"):
        LatentStore(tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing or was cut off"):
        LatentStore(tmp_path / "cache")


def test_verify_accepts_what_was_written(tmp_path):
    write(tmp_path / "cache")
    LatentStore(tmp_path / "cache").verify()


def test_what_the_latents_depend_on_is_required(tmp_path):
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


def test_edited_newer_and_garbled_indices(tmp_path):
    write(tmp_path / "cache")
    path = tmp_path / "cache" / INDEX_NAME
    index = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(index | {"metadata": index["metadata"] | {"tokenizer_digest": "tok2"}}))
    with pytest.raises(DataError, match="was edited"):
        LatentStore(tmp_path / "cache")
    newer = index | {"version": 2}
    path.write_text(json.dumps(newer | {"digest": index_digest(newer)}))
    with pytest.raises(DataError, match=r"version 2.*reads up to 1.*install a newer"):
        LatentStore(tmp_path / "cache")
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        LatentStore(tmp_path / "cache")


def test_what_a_writer_refuses(tmp_path):
    write(tmp_path / "done")
    with pytest.raises(DataError, match="holds a complete latent cache"):
        LatentWriter(tmp_path / "done", METADATA)
    writer = LatentWriter(tmp_path / "new", METADATA)
    with pytest.raises(DataError, match="no window was added"):
        writer.finish()
    with pytest.raises(DataError, match="2 start frames"):
        writer.add_clip("a", latents_of(0, 3), [0, 9], split="train", caption="x", fps=25.0)
    writer.add_clip("a", latents_of(0, 1), [0], split="train", caption="x", fps=25.0)
    with pytest.raises(DataError, match="clip a was added already"):
        writer.add_clip("a", latents_of(0, 1), [9], split="train", caption="x", fps=25.0)
    with pytest.raises(DataError, match="one shape and type"):
        writer.add_clip("b", latents_of(0, 1).float(), [0], split="train", caption="x", fps=25.0)
    with pytest.raises(DataError, match="1 captions have no text states, 'x' first"):
        writer.finish()
    with pytest.raises(DataError, match="expected"):
        writer.add_text("x", torch.zeros(0, 6))
    writer.add_text("x", text_of(2))
    writer.finish()
    assert len(LatentStore(tmp_path / "new")) == 1
