"""`cosmos-train convert`: what it prints, and its exit codes."""

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import official_ar
from support.official_dit import official_state, small_config, write_official

from cosmos_launch.cli.main import main
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.convert import TOLERANCE
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.number_formats import dequantised
from cosmos_tok.official import official_tensors
from cosmos_tok.store import load_tokenizer
from cosmos_tok.whitening import load_statistics
from cosmos_train.interop.source import open_source


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small file of the first release's layout, whose tensors do not tell its rates."""
    torch.manual_seed(0)
    config = TokenizerConfig(channels=4, spatial_rate=16, extra_resampling=True)
    torch.save(official_tensors(CausalVideoTokenizer(config)), tmp_path / "model.pt")
    (tmp_path / "given.json").write_text(json.dumps({"temporal_compression": 8, "spatial_compression": 16}))
    return tmp_path / "model.pt"


def test_it_says_what_it_found_and_how_it_compared(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "ours"
    assert (
        main(["convert", str(checkpoint), "--out", str(out), "--arguments", str(checkpoint.parent / "given.json")]) == 0
    )
    said = capsys.readouterr().out
    assert "official layout: continuous video tokenizer 8x16x16, 16 channels" in said
    assert re.search(r"patch 4, widths 4 -> 8, 16, 16, 2 blocks a level, z 16, [\d,]+ parameters", said)
    compared = "compared  on 17 frames of 48x80 with the weights as read"
    differences = re.search(rf"{compared}: largest difference (\S+) encoding, (\S+) decoding", said)
    assert differences and all(float(difference) <= TOLERANCE for difference in differences.groups())
    assert load_tokenizer(out)[1].extra_resampling
    assert main(["convert", str(out), "--out", str(out.parent / "theirs"), "--to", "diffusers"]) == 0
    assert "with diffusers' AutoencoderKLCosmos" in capsys.readouterr().out


def test_wrong_input_is_one_sentence(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "ours"
    assert main(["convert", str(checkpoint), "--out", str(out)]) == 2
    assert "do not tell its rates; pass --arguments" in capsys.readouterr().err
    (checkpoint.parent / "given.json").write_text("[]")
    assert (
        main(["convert", str(checkpoint), "--out", str(out), "--arguments", str(checkpoint.parent / "given.json")]) == 2
    )
    assert "is not one JSON object" in capsys.readouterr().err
    assert not out.exists()


def world_difference(said: str, clip: str) -> float:
    found = re.search(rf"on {clip} with the weights as read: largest difference (\S+); all tensors equal bit", said)
    assert found, said
    return float(found[1])


def test_a_world_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command; it recognises what the source is."""
    source, arguments = (
        write_official(tmp_path / "model.pt", small_config(condition_mask=True)),
        tmp_path / "given.json",
    )
    assert main(["convert", str(source), "--out", str(tmp_path / "ours")]) == 0
    said = capsys.readouterr().out
    assert "official layout: Video2World world model, 2 blocks of width 96, 4 heads, AdaLN rank 16, 6 channels" in said
    assert "note      no tensor tells the rotary extrapolation; took 2, 1, 1" in said
    assert world_difference(said, "3 latent frames of 6x10") <= TOLERANCE
    assert main(["convert", str(tmp_path / "ours"), "--out", str(tmp_path / "theirs"), "--to", "diffusers"]) == 0
    assert "with diffusers' CosmosTransformer3DModel: largest difference" in capsys.readouterr().out

    arguments.write_text(json.dumps({"num_blocks": 4}))
    convert = ["convert", str(source), "--out", str(tmp_path / "other"), "--arguments", str(arguments)]
    assert main(convert) == 2
    assert "its tensors say num_blocks=2, the arguments num_blocks=4" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_autoregressive_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again; its shards are asked for with --tp."""
    arguments = official_ar.KINDS["13B video2world"]
    source, given = official_ar.write(tmp_path / "model.pt", arguments), tmp_path / "given.json"
    given.write_text(json.dumps(arguments))
    assert main(["convert", str(source), "--out", str(tmp_path / "ours"), "--arguments", str(given)]) == 0
    said = capsys.readouterr().out
    assert "official layout: autoregressive Video2World model, 2 blocks of width 40, 8 heads over 4 of keys and" in said
    assert "48 codes and a begin token, YaRN 3, sinusoid" in said
    assert world_difference(said, "3 latent frames of 3x5") <= TOLERANCE
    shards = ["--to", "training", "--tp", "2"]
    assert main(["convert", str(tmp_path / "ours"), "--out", str(tmp_path / "shards"), *shards]) == 0
    assert len(list((tmp_path / "shards").glob("iter_*_model_mp_*.pt"))) == 2
    assert main(["convert", str(source), "--out", str(tmp_path / "llama"), "--to", "transformers"]) == 2
    assert "is not a LlamaForCausalLM" in capsys.readouterr().err


def test_statistics_are_rounded_or_not(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, mean, std = checkpoint.parent, torch.linspace(-1, 1, 48), torch.linspace(0.3, 1, 48)
    torch.save((mean, std), folder / "mean_std.pt")
    convert = ["convert", str(checkpoint), "--arguments", str(folder / "given.json"), "--out"]
    assert main([*convert, str(folder / "rounded")]) == 0
    assert main([*convert, str(folder / "exact"), "--statistics", "fp32"]) == 0
    for name, wanted in (("rounded", std.bfloat16().float()), ("exact", std)):
        found = load_statistics(folder / name / "latent_statistics.safetensors")
        assert torch.equal(found.std_CT.flatten(), wanted)
    source = write_official(folder / "world/model.pt", small_config())
    assert main(["convert", str(source), "--out", str(folder / "ours"), "--statistics", "fp32"]) == 2
    assert "--statistics fp32 belongs to a tokenizer" in capsys.readouterr().err


def test_a_tokenizer_has_no_tokenizer(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["convert", str(checkpoint), "--out", str(checkpoint.parent / "ours"), "--tokenizer", "somewhere"]
    assert main(convert) == 2
    assert "--tokenizer somewhere belongs to a world model" in capsys.readouterr().err
    assert main([*convert[:-2], "--tp", "2"]) == 2
    assert "--tp 2 belongs to a world model" in capsys.readouterr().err


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69\nsize 13500000000\n"
NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "pointer": (POINTER, "is a Git LFS pointer that stands in for a file of 13,500,000,000 bytes; run `git lfs pull`"),
    "page": (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
    "gzip": (gzip.compress(b"weights"), "is a gzip archive, not a file of weights"),
    "empty": (b"", "is empty"),
    "JSON": (b'{"error": "not found"}', "is JSON that begins with"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "pytorch_model.bin", "weights", "decoder.jit"])
def test_what_is_no_file_of_weights_is_named(
    tmp_path: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By itself and in a folder; half a TorchScript tokenizer beside its other half."""
    content, said = NO_WEIGHTS[kind]
    path = tmp_path / "released" / name
    path.parent.mkdir()
    path.write_bytes(content)
    if name == "decoder.jit":
        path.with_name("encoder.jit").write_bytes(content)
    for source in [path, path.parent] if name != "weights" and not name.endswith(".bin") else [path]:
        assert main(["convert", str(source), "--out", str(tmp_path / "ours")]) == 2
        err = capsys.readouterr().err
        assert said in err and "released/" in err and err.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def saved(path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


QUANTISED = "net.blocks.block0.blocks.2.block.layer1.weight"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("scale_name", ["weight_scale", "scale_weight", "weight_scale_inv"])
def test_8_bits_with_their_scales_are_converted(tmp_path: Path, suffix: str, scale_name: str) -> None:
    """To the weights that they mean: one scale, or one for each row, or each block of 32 x 32."""
    state = official_state(small_config())
    meant, stored = dict(state), dict(state)
    for name, weight in state.items():
        if "block.layer" in name or (".to_" in name and weight.ndim == 2):
            rows, columns = weight.shape
            blocks = (-(-rows // 32), -(-columns // 32))
            shape = {"weight_scale": (), "scale_weight": (rows, 1), "weight_scale_inv": blocks}
            scale = torch.rand(shape[scale_name]) + 0.5
            stored[name] = weight.to(torch.float8_e4m3fn)
            stored[name.removesuffix("weight") + scale_name] = scale
            meant[name] = dequantised(stored[name], scale, "")
    assert len(stored) > len(state) + 10
    source = saved(tmp_path / f"model{suffix}", stored)
    assert main(["convert", str(source), "--out", str(tmp_path / "ours")]) == 0
    found = open_source(tmp_path / "ours").ours
    expected = open_source(saved(tmp_path / "meant.pt", meant)).ours
    assert found.meta.keys() == expected.meta.keys()
    for name in expected.meta:
        assert torch.equal(found.read(name), expected.read(name)), name


FORMATS: dict[str, tuple[dict[str, torch.Tensor], str, int]] = {
    "8 bits without scale": ({QUANTISED: torch.ones(384, 96).to(torch.float8_e4m3fn)}, "is float8_e4m3fn, without", 2),
    "8 bits of another kind": ({QUANTISED: torch.ones(384, 96).to(torch.float8_e5m2)}, "is float8_e5m2, without", 2),
    "int8": ({QUANTISED: torch.ones(384, 96, dtype=torch.int8)}, "is int8, and weights are read as", 2),
    "packed": ({QUANTISED: torch.ones(18432, 1, dtype=torch.uint8)}, "is uint8, and weights are read as", 2),
    "NaN": ({QUANTISED: torch.full((384, 96), torch.nan)}, "36,864 of 36,864 numbers of", 1),
    "infinity": ({QUANTISED: torch.full((384, 96), -torch.inf)}, "are not finite (NaN or infinity)", 1),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", FORMATS)
def test_numbers_that_are_no_weights_are_named(
    tmp_path: Path, suffix: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the tensor and the file; counters and positions may be whole numbers."""
    changed, said, code = FORMATS[name]
    whole = {"net.pos_embedder.seq": torch.arange(24), "step": torch.tensor(3)}
    source = saved(tmp_path / f"model{suffix}", official_state(small_config()) | whole | changed)
    assert main(["convert", str(source), "--out", str(tmp_path / "ours")]) == code
    err = capsys.readouterr().err
    assert said in err and QUANTISED in err and str(source) in err and err.count("\n") == 1
    assert not (tmp_path / "ours").exists()
    saved(source, official_state(small_config()) | whole)
    assert main(["convert", str(source), "--out", str(tmp_path / "ours")]) == 0
