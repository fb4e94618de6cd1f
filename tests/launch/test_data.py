"""`cosmos-train data ...` from its words to its files: build, check, pack, stats."""

import argparse
from pathlib import Path

import pytest
from support.footage import CARPHONE
from support.page import Page

from cosmos_data.errors import DataError
from cosmos_data.manifest import Manifest
from cosmos_launch import data, data_page
from cosmos_launch.data_arguments import add_data_commands


def run(line: str) -> int:
    parser = argparse.ArgumentParser()
    add_data_commands(parser)
    arguments = parser.parse_args(line.split())
    return arguments.command(arguments)


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").symlink_to(CARPHONE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_words_mean(footage: Path, capsys: pytest.CaptureFixture[str]):
    assert run("build videos --out m.parquet --clip-frames 20 --heldout-every 3 --keep-shots --max-clips 4") == 0
    said = capsys.readouterr().out
    assert "6 clips found, 4 kept, evenly spread" in said and "4 clips (" in said
    assert [clip.start_frame for clip in Manifest.read("m.parquet")] == [0, 20, 60, 80]
    assert run("build videos --out whole.parquet --clip-frames 0 --heldout-every 0 --keep-shots") == 0
    [whole] = Manifest.read("whole.parquet")
    assert (whole.num_frames, whole.split) == (120, "train"), "0: whole shots, and none held out"
    assert run("pack whole.parquet --out packed --height-px 48 --width-px 64 --codec vp9") == 0
    assert "1 clips, 64x48 vp9 -> " in capsys.readouterr().out
    [packed] = Manifest.read("packed/manifest.parquet")
    assert (packed.num_frames, packed.height_px, packed.width_px, packed.codec) == (120, 48, 64, "vp9")


def test_a_check_ends_with_2_where_there_is_an_error(footage: Path, capsys: pytest.CaptureFixture[str]):
    run("build videos --out m.parquet --clip-frames 60")
    assert data.check(Path("m.parquet"), target_fps=None, out=None) == 0
    (footage / "videos" / "a.mp4").unlink()
    assert data.check(Path("m.parquet"), target_fps=None, out=Path("found/all.txt")) == 2
    assert "error" in Path("found/all.txt").read_text() and "2 clips: " in capsys.readouterr().out
    with pytest.raises(DataError, match=r"--out videos is a folder; name the manifest to write"):
        run("build videos --out videos")


def test_the_page_counts_clips(footage: Path):
    run("build videos --out m.parquet --clip-frames 40 --keep-shots")
    assert data_page.stats(Path("m.parquet"), out=Path("stats.html")) == 0
    page = Page(Path("stats.html").read_text(encoding="utf-8"))
    manifest = Manifest.read("m.parquet")
    assert f"{manifest[0].width_px}x{manifest[0].height_px}3" in page.text, "the size, and how many clips have it"
    assert manifest.digest in page.text
    assert page.tags["img"] + page.tags["svg"] >= 3
