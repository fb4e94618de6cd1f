"""`cosmos-train data simulate` from its words to its folder."""

from pathlib import Path

import pytest

from cosmos_data.manifests.manifest import Manifest
from cosmos_launch.cli.main import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def test_what_words_mean(capsys: pytest.CaptureFixture[str]):
    line = "data simulate pusher --out world --clips 2 --heldout 1 --frames 5 --size 24x32 --fps 10 --seed 3"
    assert main([*line.split(), "--codec", "h264", "--workers", "1", "pusher.policy=task", "pusher.task=left"]) == 0
    assert "3 clips (1 held out) of 5 frames, 32x24 h264 -> world/manifest.arrow" in capsys.readouterr().out
    manifest = Manifest.read("world/manifest.arrow")
    assert [clip.split for clip in manifest] == ["train", "train", "heldout"]
    for clip in manifest:
        assert (clip.num_frames, clip.fps, clip.height_px, clip.width_px) == (5, 10.0, 24, 32)
        assert clip.caption.startswith("push the ") and clip.caption.endswith(" left")
        assert clip.action is not None and clip.action.embodiment == "pusher"
    assert main([*line.split(), "--codec", "h264", "pusher.policy=task", "pusher.task=left"]) == 0, "it is there"
    assert main([*line.split(), "--codec", "h264", "pusher.policy=task"]) == 2
    assert "was begun with pusher.task=left, and this asks for pusher.task=random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rooms", "there is no world 'rooms'; use one of discs, room, pusher, table, arm, mujoco"),
        ("room --size 32", "--size 32 is not HxW"),
        ("room room.scene=random", "unknown key room.scene; the nearest: room.scenes"),
        ("room room.scenes=other", "room.scenes=other is not one of fixed, random"),
        ("room room.num_spheres=9", "room.num_spheres=9 must be at least 0 and at most 8"),
        ("room pusher.task=left", "pusher.task=left is no key of the world room; its keys begin with room."),
        ("room --size 33x32", "height_px=33 must be even"),
        ("room --clips 0", "num_train=0 must be at least 1"),
        ("room --workers 0", "num_workers=0 must be at least 1"),
    ],
)
def test_what_is_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "simulate", *words.split(), "--out", "world"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("world").exists()


def test_keys_of_worlds_are_explained(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "room.scenes"]) == 0
    assert "one room for all clips" in " ".join(capsys.readouterr().out.split())
