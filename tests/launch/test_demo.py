"""What the demo is made of: stages that are done once, their memory, footage, the clip that it continues."""

import json
from pathlib import Path

import pytest
from support.footage import CARPHONE, carphone_clips

from cosmos_launch.demo import MemoryMeter, Stages, gather_footage
from cosmos_launch.pages.demo_page import held_out_clip
from cosmos_train.config.errors import ConfigError


def test_a_stage_is_run_once_and_a_failed_one_ends_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    stages = Stages(tmp_path)
    stages.run("explained", "explain train.num_steps", result=tmp_path / "absent")
    assert "train.num_steps" in capfd.readouterr().out
    [done] = json.loads((tmp_path / "stages.json").read_text())
    assert done["title"] == "explained" and done["seconds"] > 0
    (tmp_path / "made").touch()
    stages.run("made", "explain no.such.key", result=tmp_path / "made")
    with pytest.raises(SystemExit) as ended:
        stages.run("failing", "explain no.such.key", result=tmp_path / "absent")
    assert ended.value.code == 2
    assert [stage["title"] for stage in Stages(tmp_path).done] == ["explained"]


def test_memory_is_that_of_all_processes():
    with MemoryMeter() as memory:
        held = b"1" * 2**28
        while memory.peak_gib == 0:
            memory.finished.wait(0.05)
    assert memory.peak_gib > len(held) / 2**30


def test_footage_is_the_users_or_ours(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.mp4").symlink_to(CARPHONE)
    (tmp_path / "mine" / "a.txt").write_text("a man in a car")
    gather_footage(tmp_path / "videos", tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["a.mp4", "a.txt"]
    gather_footage(tmp_path / "ours", None)
    captions = list((tmp_path / "ours").glob("*.txt"))
    assert captions and all(caption.with_suffix(".mp4").is_file() for caption in captions)
    with pytest.raises(ConfigError, match=r"VIDEO=.*nowhere is not a folder; name a folder of videos"):
        gather_footage(tmp_path / "new", tmp_path / "nowhere")


def test_the_clip_that_is_continued_is_held_out(tmp_path: Path):
    (tmp_path / "clips").mkdir()
    carphone_clips(tmp_path / "clips").rename(tmp_path / "clips" / "manifest.arrow")
    assert held_out_clip(tmp_path).split == "heldout"
