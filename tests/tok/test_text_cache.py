"""States are computed once for a text and an encoder, and the encoder is not loaded for what is known."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_t5 import write_t5

from cosmos_tok import text_cache
from cosmos_tok.config import TokenizerError
from cosmos_tok.text import FolderTextEncoder, TextEncoder
from cosmos_tok.text_cache import CachedTextEncoder, encoder_digest


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"))


def test_states_are_the_encoders(t5_folder: Path, tmp_path: Path) -> None:
    prompts = ["a red ball a red", "rain", "a red ball a red"]
    direct = FolderTextEncoder(t5_folder, 4).encode(prompts)
    cached: TextEncoder = CachedTextEncoder(t5_folder, 4, tmp_path / "cache")
    for encoded in (cached.encode(prompts), cached.encode(prompts)):
        torch.testing.assert_close(encoded.states_BSE, direct.states_BSE, rtol=0, atol=1e-6)
        assert encoded.length_B.tolist() == [4, 2, 4] and encoded.dropped_B.tolist() == [2, 0, 2]
    assert encoded.states_BSE[1, 2:].abs().max() == 0
    assert (cached.width, cached.name) == (8, f"t5:{t5_folder.parent.name}/{t5_folder.name}")


def test_the_encoder_is_loaded_for_new_texts_alone(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = CachedTextEncoder(t5_folder, 4, tmp_path)
    wanted = first.encode(["rain"]).states_BSE
    assert first.num_computed == 1 and len(list(tmp_path.iterdir())) == 1

    def refuse(*_: object) -> TextEncoder:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(text_cache, "FolderTextEncoder", refuse)
    again = CachedTextEncoder(t5_folder, 4, tmp_path)
    assert torch.equal(again.encode(["rain"]).states_BSE, wanted) and again.num_computed == 0
    with pytest.raises(AssertionError, match="it was loaded"):
        again.encode(["rain", "a ball"])
    with pytest.raises(AssertionError, match="it was loaded"):
        CachedTextEncoder(t5_folder, 5, tmp_path).encode(["rain"])


def test_processes_of_one_number_on_two_nodes_write_the_same_text_at_once(
    t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins when the first has written aside and not yet renamed: each its own file, both the same text."""
    first, second = (CachedTextEncoder(t5_folder, 4, tmp_path) for _ in range(2))
    rename, asides = Path.rename, []

    def rename_late(self: Path, target: Path) -> Path:
        asides.append(self)
        if len(asides) == 1:
            second.encode(["rain"])
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    wanted = first.encode(["rain"]).states_BSE
    assert len(set(asides)) == 2 and len(list(tmp_path.iterdir())) == 1
    assert torch.equal(CachedTextEncoder(t5_folder, 4, tmp_path).encode(["rain"]).states_BSE, wanted)
    assert not first._is_told and not second._is_told


def test_a_folder_that_can_not_be_written_to(t5_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also by root, whom no permission stops: the folder is gone."""
    cached = CachedTextEncoder(t5_folder, 4, tmp_path / "cache")
    wanted = cached.encode(["rain"]).states_BSE
    shutil.rmtree(tmp_path / "cache")
    for _ in range(2):
        assert torch.equal(cached.encode(["rain"]).states_BSE, wanted)
    assert cached.num_computed == 3
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        f"{tmp_path / 'cache'} can not be written to"
    ]


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
        encoder = CachedTextEncoder(folder, 4, tmp_path / "cache")
        states.append(encoder.encode(["rain"]).states_BSE)
        assert encoder.num_computed == 1
    assert not torch.equal(*states)


def test_the_encoder_is_loaded_once(t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[FolderTextEncoder] = []

    def load(*arguments: Any) -> FolderTextEncoder:
        loaded.append(FolderTextEncoder(*arguments))
        return loaded[-1]

    monkeypatch.setattr(text_cache, "FolderTextEncoder", load)
    CachedTextEncoder(t5_folder, 4, tmp_path).encode(["rain", "a ball"])
    assert len(loaded) == 1


def test_what_can_not_get_its_name_leaves_nothing_behind(t5_folder: Path, tmp_path: Path) -> None:
    cached = CachedTextEncoder(t5_folder, 4, tmp_path)
    place = cached._file("rain")
    place.mkdir()
    wanted = FolderTextEncoder(t5_folder, 4).encode(["rain"]).states_BSE
    torch.testing.assert_close(cached.encode(["rain"]).states_BSE, wanted, rtol=0, atol=1e-6)
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"states_SE": torch.zeros(2, 8)},
        {"states_SE": torch.zeros(2, 8), "dropped": torch.zeros(2)},
        {"states_SE": torch.zeros(8), "dropped": torch.tensor(0)},
        {"states_SE": torch.zeros(5, 8), "dropped": torch.tensor(0)},  # more than the limit
    ],
)
def test_a_file_that_holds_other_things(t5_folder: Path, tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    encoder = CachedTextEncoder(t5_folder, 4, tmp_path)
    file = encoder._file("rain")
    save_file(tensors, file)
    with pytest.raises(TokenizerError, match=rf"{file.name} cannot be read: .*remove it"):
        encoder.encode(["rain"])


def test_a_damaged_file_and_a_bare_prompt(t5_folder: Path, tmp_path: Path) -> None:
    encoder = CachedTextEncoder(t5_folder, 4, tmp_path)
    encoder.encode(["rain"])
    [file] = tmp_path.iterdir()
    file.write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match=rf"{file.name} cannot be read: .*remove it"):
        encoder.encode(["rain"])
    with pytest.raises(ValueError, match="is not a list of at least one prompt"):
        encoder.encode("rain")
