"""Tokenizer folders: the round trip, the digest, and every way in which a folder can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import TokenizerError, load_tokenizer, save_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatistics, load_statistics

CONFIG = TokenizerConfig(channels=4, channel_multipliers=(1, 2, 2), num_res_blocks=1)


@pytest.fixture(scope="module")
def model() -> CausalVideoTokenizer:
    torch.manual_seed(0)
    return CausalVideoTokenizer(CONFIG)


@pytest.fixture
def folder(tmp_path: Path, model: CausalVideoTokenizer) -> Path:
    save_tokenizer(tmp_path / "tok", model, CONFIG, {"steps": 3})
    return tmp_path / "tok"


def test_round_trip(folder: Path, model: CausalVideoTokenizer) -> None:
    loaded, config = load_tokenizer(folder)
    assert config == loaded.config == CONFIG
    assert not loaded.training
    video = torch.rand(1, 3, 9, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded(video), model(video))
    assert json.loads((folder / "config.json").read_text())["metadata"] == {"steps": 3}
    assert [path.name for path in folder.parent.iterdir()] == ["tok"]


def test_statistics_travel_along(tmp_path: Path, model: CausalVideoTokenizer) -> None:
    statistics = LatentStatistics(torch.zeros(16, 2), torch.ones(16, 2))
    of_images = LatentStatistics(torch.zeros(16, 1), torch.ones(16, 1))
    save_tokenizer(tmp_path / "tok", model, CONFIG, {}, statistics=statistics, image_statistics=of_images)
    for name, frames in (("latent_statistics", 2), ("image_latent_statistics", 1)):
        found = load_statistics(tmp_path / "tok" / f"{name}.safetensors")
        assert torch.equal(found.std_CT, torch.ones(16, frames))


def test_the_stored_dtype_is_kept(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "tok", CausalVideoTokenizer(CONFIG).bfloat16(), CONFIG, {})
    assert load_tokenizer(tmp_path / "tok")[0].dtype == torch.bfloat16


def test_the_digest_is_of_weights_and_architecture_alone(
    tmp_path: Path, folder: Path, model: CausalVideoTokenizer
) -> None:
    save_tokenizer(tmp_path / "other", model, CONFIG, {"steps": 4})
    digest = tokenizer_digest(folder)
    assert len(digest) == 64
    assert tokenizer_digest(tmp_path / "other") == digest
    changed = CausalVideoTokenizer(CONFIG)
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed.quant_conv.conv3d.bias[0] += 1e-6
    save_tokenizer(tmp_path / "changed", changed, CONFIG, {"steps": 3})
    assert tokenizer_digest(tmp_path / "changed") != digest
    document = json.loads((folder / "config.json").read_text())
    document["config"]["fsq_levels"] = [4, 4]
    (folder / "config.json").write_text(json.dumps(document))
    assert tokenizer_digest(folder) != digest


def test_an_existing_folder_is_left_alone(folder: Path, model: CausalVideoTokenizer) -> None:
    before = tokenizer_digest(folder)
    with pytest.raises(TokenizerError, match=r"tok exists already; remove it or save under another name"):
        save_tokenizer(folder, CausalVideoTokenizer(CONFIG), CONFIG, {})
    assert tokenizer_digest(folder) == before


def test_a_save_that_fails_leaves_nothing_under_the_name_and_can_be_repeated(
    tmp_path: Path, model: CausalVideoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("cosmos_tok.store.save_file", full_disk)
        save_tokenizer(tmp_path / "tok", model, CONFIG, {})
    assert not (tmp_path / "tok").exists()
    save_tokenizer(tmp_path / "tok", model, CONFIG, {})
    assert load_tokenizer(tmp_path / "tok")[1] == CONFIG


def test_saving_another_config_than_the_models_is_refused(tmp_path: Path, model: CausalVideoTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"is not the model's"):
        save_tokenizer(tmp_path / "tok", model, TokenizerConfig(), {})


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TokenizerError, match=rf"{name} cannot be read"):
        load_tokenizer(folder)
    with pytest.raises(TokenizerError, match=rf"{name} cannot be read"):
        tokenizer_digest(folder)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_a_truncated_weights_file_is_named(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        TokenizerError, match=r"model.safetensors (is empty|cannot be read: it is cut off).*copy the file again"
    ):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": "cosmos-t', "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"format": "cosmos-tok 9", "config": {}}', "its format is 'cosmos-tok 9', not 'cosmos-tok 1'"),
        ('{"format": "cosmos-tok 1", "config": {"colour": 1}}', "unexpected keyword argument 'colour'"),
        ('{"format": "cosmos-tok 1", "config": {"patch": 3}}', "tokenizer.patch=3 is not a power of two"),
    ],
)
def test_a_config_that_is_none_is_named(folder: Path, text: str, said: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(TokenizerError, match=rf"config.json is not a tokenizer's config: .*{said}"):
        load_tokenizer(folder)


def test_another_architecture_names_the_first_tensors_that_differ(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    document["config"] |= {"z_channels": 8, "num_res_blocks": 2}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(folder)
    message = str(caught.value)
    where = "in the architecture in config.json"
    assert f"decoder.conv_in.0.conv3d.weight: [8, 16, 1, 3, 3] in the file, [8, 8, 1, 3, 3] {where}" in message
    assert f"decoder.up.0.block.2.conv1.0.conv3d.bias: absent in the file, [4] {where}" in message
    assert "more; use the config that the weights were trained with" in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda weight: weight * torch.inf, "numbers of encoder.conv_out.0.conv3d.weight are not finite"),
        (lambda weight: weight.to(torch.int8), "encoder.conv_out.0.conv3d.weight is int8, and weights are read as"),
        (lambda weight: weight.to(torch.float8_e4m3fn), "encoder.conv_out.0.conv3d.weight is float8_e4m3fn, without"),
    ],
)
def test_numbers_that_are_no_weights_are_named(folder: Path, changed: Callable[[Tensor], Tensor], said: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.conv_out.0.conv3d.weight"] = changed(weights["encoder.conv_out.0.conv3d.weight"])
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(TokenizerError, match=rf"model.safetensors: .*{said}"):
        load_tokenizer(folder)
