"""`cosmos-train convert`: what it prints, its exit codes, and the Python that README shows."""

import json
import re
from pathlib import Path

import pytest
import torch
from support import official_ar
from support.official_dit import small_config, write_official

from cosmos_launch.cli import main
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.convert import TOLERANCE
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official import official_tensors
from cosmos_tok.store import load_tokenizer
from cosmos_tok.whitening import load_statistics

README = Path(__file__).parents[2] / "README.md"


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


def test_the_readmes_python_runs(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of its section, on a tokenizer and on world models of both kinds that wait where it says."""
    text = README.read_text()
    section = text[text.index("## Converting") : text.index("## What there is")]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "released").mkdir()
    checkpoint.rename(checkpoint.parent / "released" / "model.pt")
    write_official(checkpoint.parent / "released/world/model.pt", small_config(condition_mask=True))
    official_ar.write(checkpoint.parent / "released/world_ar/model.pt", official_ar.KINDS["5B video2world"])
    mask = torch.zeros(1, 1, 3, 4, 6)
    mask[:, :, 0] = 1
    given = {
        "video_B3THW": torch.zeros(1, 3, 9, 32, 32),
        "text_BSE": torch.randn(1, 5, 32),
        "sigma_B": torch.tensor([1.0]),
        "ids_BL": torch.tensor([[48, 1, 2, 3, 4]]),  # the begin token, then codes
        "given_codes_BTHW": torch.ones(1, 1, 2, 2, dtype=torch.int64),
        "text_of_codes_BSE": torch.randn(1, 5, 16),
        "condition_mask_B1THW": mask,
        "padding_mask_B1HW": torch.zeros(1, 1, 32, 48),
        **{name: torch.randn(1, 4, 3, 4, 6) for name in ("x_BCTHW", "x0_BCTHW", "noise_BCTHW", "given_BCTHW")},
    }
    for block in blocks:
        exec(block, dict(given))
    assert load_tokenizer(checkpoint.parent / "runs/cv8x16x16")[1].spatial_rate == 16
