"""States are computed once for a text and an encoder, and the encoder is not loaded for what is known."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_t5 import write_t5

from cosmos_data.caches.shard_file import open_shard
from cosmos_data.caches.text_cache import KIND, TextCache
from cosmos_train.text import cache as text_cache
from cosmos_train.text.cache import CachedTextEncoder, encoder_digest
from cosmos_train.text.encoder import FolderTextEncoder, TextEncoder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"))


def test_states_are_the_encoders(t5_folder: Path, tmp_path: Path) -> None:
    """To the bit: of texts that are found, that are new, and that stand twice in a list."""
    prompts = ["a red ball a red", "rain", "a red ball a red"]
    direct = FolderTextEncoder(t5_folder, 4).encode(prompts)
    cached: TextEncoder = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
    cached.encode(["rain"])
    for _ in range(2):
        encoded = cached.encode(prompts)
        assert torch.equal(encoded.states_BSE, direct.states_BSE)
        assert encoded.length_B.tolist() == [4, 2, 4] and encoded.dropped_B.tolist() == [2, 0, 2]
        cached.flush()
    assert encoded.states_BSE[1, 2:].abs().max() == 0
    assert (cached.width, cached.name) == (8, f"t5:{t5_folder.parent.name}/{t5_folder.name}")


def test_the_encoder_is_loaded_for_new_texts_alone(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
    wanted = first.encode(["rain", "a ball", "rain"])
    first.flush()
    assert first.num_computed == 2 and len(list(tmp_path.iterdir())) == 1

    def refuse(*_: object) -> TextEncoder:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(text_cache, "FolderTextEncoder", refuse)
    again = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
    found = again.encode(["rain", "a ball", "rain"])
    assert torch.equal(found.states_BSE, wanted.states_BSE) and again.num_computed == 0
    with pytest.raises(AssertionError, match="it was loaded"):
        again.encode(["rain", "a red ball"])
    with pytest.raises(AssertionError, match="it was loaded"):
        CachedTextEncoder(t5_folder, 5, TextCache(tmp_path)).encode(["rain"])


def test_two_processes_encode_the_same_text_at_once(t5_folder: Path, tmp_path: Path) -> None:
    """Neither sees what the other has gathered; what they write is one file."""
    first, second = (CachedTextEncoder(t5_folder, 4, TextCache(tmp_path)) for _ in range(2))
    wanted = first.encode(["rain"]).states_BSE
    assert torch.equal(second.encode(["rain"]).states_BSE, wanted) and second.num_computed == 1
    first.flush()
    second.flush()
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(CachedTextEncoder(t5_folder, 4, TextCache(tmp_path)).encode(["rain"]).states_BSE, wanted)


def test_a_folder_that_can_not_be_written_to(t5_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also by root, whom no permission stops: a file stands in its place."""
    (tmp_path / "cache").write_text("")
    cached = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path / "cache"))
    wanted = FolderTextEncoder(t5_folder, 4).encode(["rain"]).states_BSE
    for _ in range(2):
        assert torch.equal(cached.encode(["rain"]).states_BSE, wanted)
        cached.flush()
    assert cached.num_computed == 2
    [record] = caplog.records
    assert record.getMessage().startswith("what is new is not kept, and made each time: ")


def test_an_encoder_is_known_by_what_is_in_it(t5_folder: Path, tmp_path: Path) -> None:
    digest, copy = encoder_digest(t5_folder), tmp_path / "copy"
    copy.mkdir()
    for path in t5_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "README.md").write_text("of no importance")
    (copy / "pytorch_model.bin").write_bytes(b"the same weights again")
    assert encoder_digest(copy) == digest
    (copy / "config.json").rename(copy / "other.json")
    assert encoder_digest(copy) != digest, "what a file is called is part of it"
    (copy / "other.json").rename(copy / "config.json")
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert encoder_digest(copy) != digest


def test_another_encoder_finds_nothing_of_the_first(t5_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(t5_folder, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_norm_epsilon": 0.5}))
    states = []
    for folder in (t5_folder, tmp_path / "other"):
        encoder = CachedTextEncoder(folder, 4, TextCache(tmp_path / "cache"))
        states.append(encoder.encode(["rain"]).states_BSE)
        encoder.flush()
        assert encoder.num_computed == 1
    assert not torch.equal(*states)


def test_states_of_8_digits_and_of_3_lie_beside_each_other(t5_folder: Path, tmp_path: Path) -> None:
    """bf16 as a GPU computes it, in half the room; to the bit the same when it is found."""
    exact, rounded = (CachedTextEncoder(t5_folder, 4, TextCache(tmp_path), "cpu", kind) for kind in ("fp32", "bf16"))
    prompts = ["rain", "a red ball"]
    wanted, computed = exact.encode(prompts).states_BSE, rounded.encode(prompts).states_BSE
    assert computed.dtype == torch.float32
    assert not torch.equal(computed, wanted.bfloat16().float()), "the encoder computes in it, too"
    torch.testing.assert_close(computed, wanted, rtol=0.05, atol=0.05)
    rounded.flush()
    [path] = tmp_path.iterdir()
    assert open_shard(path, KIND).facts["dtype"] == "bfloat16"
    again = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path), "cpu", "bf16")
    assert torch.equal(again.encode(prompts).states_BSE, computed) and again.num_computed == 0
    fresh = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
    assert torch.equal(fresh.encode(prompts).states_BSE, wanted) and fresh.num_computed == 2


def test_the_encoder_is_loaded_once(t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[FolderTextEncoder] = []

    def load(*arguments: Any) -> FolderTextEncoder:
        loaded.append(FolderTextEncoder(*arguments))
        return loaded[-1]

    monkeypatch.setattr(text_cache, "FolderTextEncoder", load)
    encoder = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
    for prompts in (["rain", "a ball"], ["a red ball"]):
        encoder.encode(prompts)
    assert len(loaded) == 1


def test_damaged_states_are_computed_again(t5_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
    wanted = first.encode(["rain"]).states_BSE
    first.flush()
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    for num_computed in (1, 0):
        encoder = CachedTextEncoder(t5_folder, 4, TextCache(tmp_path))
        assert torch.equal(encoder.encode(["rain"]).states_BSE, wanted) and encoder.num_computed == num_computed
        encoder.flush()
    [record] = caplog.records
    assert record.getMessage().startswith(f"{path} is passed over, and what it held is made again: ")


def test_states_of_an_earlier_version_are_named(
    t5_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({"states_SE": torch.zeros(2, 8), "dropped": torch.tensor(0)}, tmp_path / f"{'0' * 64}.safetensors")
    assert CachedTextEncoder(t5_folder, 4, TextCache(tmp_path)).encode(["rain"]).length_B.tolist() == [2]
    [record] = caplog.records
    assert record.getMessage().startswith(f"{tmp_path} holds one file a text, as an earlier cosmos-train kept them")


def test_a_bare_prompt(t5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a list of at least one prompt"):
        CachedTextEncoder(t5_folder, 4, TextCache(tmp_path)).encode("rain")
