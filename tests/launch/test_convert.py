"""`cosmos-train convert`: what it prints, its exit codes, and the Python that README shows."""

import json
import re
from pathlib import Path

import pytest
import torch

from cosmos_launch.cli import main
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official import official_tensors
from cosmos_tok.store import load_tokenizer

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
    assert "compared  on 17 frames of 48x80 with the weights as read: largest difference 0 encoding, 0 decoding" in said
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


def test_the_readmes_python_runs(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = README.read_text()
    section = text[text.index("## Converting") :]
    code = section[section.index("```python") + 9 : section.index("```\n", section.index("```python") + 9)]
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "released").mkdir()
    checkpoint.rename(checkpoint.parent / "released" / "model.pt")
    exec(code, {"video_B3THW": torch.zeros(1, 3, 9, 32, 32)})
    assert load_tokenizer(checkpoint.parent / "runs/cv8x16x16")[1].spatial_rate == 16
