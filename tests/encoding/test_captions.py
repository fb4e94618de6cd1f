"""`cosmos-train tokenize --text`: captions into a cache by a T5 folder on disk, once."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.clips import CLIP
from support.tiny_t5 import write_t5

from cosmos_data.manifests.conditions import CaptionWindow
from cosmos_data.manifests.manifest import Manifest
from cosmos_launch.cli.main import main


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Of three clips with two captions, one of them of six tokens, for an encoder that takes four; of a part of a clip
    with a caption of its own, and of another manifest with one more."""
    captions = ("rain", "a red ball a red", "rain")
    clips = [replace(CLIP, clip_id=str(row), caption=caption) for row, caption in enumerate(captions)]
    clips[2] = replace(clips[2], captions=(CaptionWindow(start_frame=0, num_frames=5, text="red rain"),))
    Manifest(clips).write(tmp_path / "clips.arrow")
    Manifest([replace(CLIP, caption="a ball")]).write(tmp_path / "more.arrow")
    (tmp_path / "t5").mkdir()
    return [
        "tokenize",
        "run/demo_world",
        "--text",
        f"data.manifest={tmp_path}/clips.arrow",
        f"data.blend={{{tmp_path}/more.arrow: 1.0}}",
        f"text.encoder={write_t5(tmp_path / 't5')}",
        "text.max_tokens=4",
        f"text.cache={tmp_path}/text",
    ]


def test_captions_are_encoded_once(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "4 captions encoded, 0 were there already" in said
    assert "caption cut by 2 tokens to text.max_tokens=4: a red ball a red" in said
    kept = sorted((tmp_path / "text").iterdir())
    assert len(kept) == 1
    assert main(command) == 0
    assert "0 captions encoded, 4 were there already" in capsys.readouterr().out
    assert sorted((tmp_path / "text").iterdir()) == kept


def test_what_is_missing_is_one_sentence(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command[:-1]) == 2
    assert "text.cache is not set, and --text keeps the states of texts there" in capsys.readouterr().err
    assert main([*command, "text.encoder=/nowhere/t5-11b"]) == 2
    assert "text.encoder=/nowhere/t5-11b is not a folder; provide the folder of a T5" in capsys.readouterr().err
    assert main([*command, "--tokenizer", "somewhere", "--out", "elsewhere"]) == 2
    assert "--text, --samples and --nproc go with a world model's YAML" in capsys.readouterr().err
