"""`cosmos-train sample` of a model that is steered by a camera path and by actions: futures, files, wrong input."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import steered_run
from support.steered_run import DATA, FRAMES, SIZE_PX, conditions_of
from torch import Tensor

from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.videos.media import read_first_frames
from cosmos_data.videos.video import probe_video
from cosmos_launch.cli.main import main
from cosmos_launch.cli.sample import tell_movement
from cosmos_train.parallel import init
from cosmos_train.train.checkpoint.folder import CheckpointError
from cosmos_train.worlds.opening import open_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`steered`, a run of one step on random latents with conditions, and `plain`, one that reads none."""
    folder = tmp_path_factory.mktemp("steered")
    steered_run.write(folder)
    Image.new("RGB", (SIZE_PX, SIZE_PX), (200, 40, 40)).save(folder / "first.png")
    np.save(folder / "right.npy", np.tile([2.0, 0.0], (30, 1)))
    np.save(folder / "up.npy", np.tile([0.0, -2.0], (30, 1)))
    np.save(folder / "wide.npy", np.zeros((30, 3)))
    np.save(folder / "short.npy", np.zeros((5, 2)))
    (folder / "keys.yaml").write_text("w: [0, -2]\nd: [2, 0]\n")
    path = {
        "convention": "camera_to_world_opencv",
        "intrinsics_px": [30, 30, 32, 32],
        "height_px": 64,
        "width_px": 64,
        "extrinsics": [np.eye(4).tolist()] * FRAMES,
    }
    (folder / "large.json").write_text(json.dumps(path))
    (folder / "mirrored.json").write_text(
        json.dumps(path | {"height_px": 32, "width_px": 32, "extrinsics": [np.diag([1.0, 1, -1, 1]).tolist()] * FRAMES})
    )
    return folder


def sample(folder: Path, out: Path, line: str, *more: str, run: str = "steered") -> int:
    words = [str(folder / word) if "." in word and "=" not in word else word for word in line.split()]
    return main(["sample", str(folder / run), "--out", str(out), *words, *more, "sample.num_steps=2"])


def frames(path: Path, num_frames: int = FRAMES) -> Tensor:
    return read_first_frames(path, num_frames, DATA, crop=False).float()


def facts_of(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


PAN = "--camera pan:20,fov_deg=60"


def test_futures_of_one_state_under_different_actions(folder: Path, tmp_path: Path):
    """In one call, of one seed; each is the video that its actions give alone, and they differ."""
    given = f"--input first.png {PAN}"
    assert sample(folder, tmp_path / "both", f"{given} --actions right.npy --actions up.npy") == 0
    names = {path.stem for path in (tmp_path / "both").glob("*.mp4")}
    assert names == {"future-00", "future-01", "grid"}
    assert sample(folder, tmp_path / "one", f"{given} --actions up.npy") == 0
    right, up = (frames(tmp_path / "both" / f"future-0{number}.mp4") for number in (0, 1))
    alone = frames(tmp_path / "one/seed-0000.mp4")
    assert (up - alone).abs().mean() < 0.5 < (right - up).abs().mean()
    assert probe_video(tmp_path / "both/grid.mp4").width_px == 2 * SIZE_PX
    first, second = (facts_of(tmp_path / "both", f"future-0{number}") for number in (0, 1))
    assert first["seed"] == second["seed"] == 0 and first["camera"] == "pan:20,fov_deg=60"
    assert first["actions"].endswith("right.npy")
    assert first["conditions"]["action"]["values"] == [2.0, 0.0] * FRAMES
    assert first["conditions"]["action"]["units"] == ["px", "px"], "as trained"
    assert len(first["conditions"]["camera"]["extrinsics"]) == 12 * FRAMES
    assert first["moved_px"] > 0.1 and second["moved_px"] > 0.1, "complaint 2"


def test_complaint_2_a_video_that_does_not_move_is_told(capsys: pytest.CaptureFixture):
    """Its actions alone, or its camera alone, are to move something."""
    still = torch.randint(256, (3, 1, SIZE_PX, SIZE_PX), dtype=torch.uint8).expand(3, FRAMES, SIZE_PX, SIZE_PX)
    asked = conditions_of(1)
    for conditions in (dataclasses.replace(asked, camera=None), dataclasses.replace(asked, action=None)):
        assert tell_movement("future-01", still, conditions) == 0
        assert capsys.readouterr().err.startswith("future-01 stands still (0 px), and its camera or its actions do not")
        assert tell_movement("future-01", torch.randint(256, still.shape, dtype=torch.uint8), conditions) > 0.1
        assert not capsys.readouterr().err
    nothing = WindowConditions(action=dataclasses.replace(asked.action, values=(0.0,) * 2 * FRAMES))
    assert tell_movement("future-01", still, nothing) == 0 and not capsys.readouterr().err


def test_futures_under_different_camera_paths(folder: Path, tmp_path: Path):
    line = "--camera pan:20,fov_deg=60 --camera orbit:-60,fov_deg=60 --actions up.npy"
    assert sample(folder, tmp_path, line) == 0
    assert (frames(tmp_path / "future-00.mp4") - frames(tmp_path / "future-01.mp4")).abs().mean() > 0.5


def test_a_video_of_several_windows_steered_by_keys(folder: Path, tmp_path: Path):
    """17 frames are two windows, and 16 keys lead through them; another last key changes the second window alone."""
    line = f"--input first.png {PAN} --keys keys.yaml --num-frames 17"
    assert sample(folder, tmp_path / "a", line, "--actions", "keys:" + "w" * 16) == 0
    assert sample(folder, tmp_path / "b", line, "--actions", "keys:" + "w" * 12 + "d" * 4) == 0
    a, b = (frames(tmp_path / name / "seed-0000.mp4", 17) for name in "ab")
    assert (a - b)[:, :9].abs().mean() < 0.5 < (a - b)[:, 9:].abs().mean()


def test_what_steers_a_video_is_drawn_onto_it_on_request(folder: Path, tmp_path: Path):
    line = f"{PAN} --actions right.npy --draw-conditions"
    assert sample(folder, tmp_path, line) == 0
    info = probe_video(tmp_path / "seed-0000.mp4")
    assert info.height_px == info.width_px == 256 and facts_of(tmp_path, "seed-0000")["conditions_drawn"]


def described(folder: Path) -> list[str]:
    """These words say what a file does not, as a run does."""
    return ["--config", str(folder / "steered/checkpoints/step-00000001/run.yaml"), "--fps", "10"]


def test_an_official_file_makes_the_runs_own_video(folder: Path, tmp_path: Path):
    """And the JSON says of which file; no run of ours counted its steps."""
    official = steered_run.write_official_file(folder)
    line = f"--input first.png {PAN} --actions up.npy"
    assert sample(folder, tmp_path / "run", line) == 0
    assert sample(folder, tmp_path / "file", line, *described(folder), run="official/model.pt") == 0
    of_run, of_file = (frames(tmp_path / name / "seed-0000.mp4") for name in ("run", "file"))
    assert (of_run == of_file).all()
    facts = facts_of(tmp_path / "file", "seed-0000")
    assert facts["checkpoint"] == str(official) and facts["step"] is None
    assert facts["weights_digest"] == facts_of(tmp_path / "run", "seed-0000")["weights_digest"]


def test_a_file_that_nothing_describes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    """Without --config; and a run with one."""
    monkeypatch.chdir(folder)
    (tmp_path / "model.pt").touch()
    for line, said in (
        ([str(tmp_path / "model.pt")], "model.pt is a file, of no run of ours, and does not say what it was trained"),
        (["steered", *described(folder)], "describes a file, and steered is a run, which has its own; leave it out"),
    ):
        assert main(["sample", *line, "--out", str(tmp_path / "out")]) == 2
        assert said in capfd.readouterr().err


WRONG = {
    "complaint 19: actions that the checkpoint lacks": (
        "plain --actions up.npy",
        "--actions steers a model that was trained with it, and ",
    ),
    "complaint 19: a camera that the checkpoint lacks": (f"plain {PAN}", "--camera steers a model that was trained wi"),
    "a checkpoint whose actions are not given": (f"steered {PAN}", "and its action, and --actions is not given; give "),
    "a checkpoint whose camera is not given": ("steered --actions up.npy", "and --camera is not given; give it"),
    "actions of another width": (
        f"steered {PAN} --actions wide.npy",
        "its actions are of shape [30, 3], and the model was trained with 2 a step (x, y)",
    ),
    "actions that end too early": (f"steered {PAN} --actions short.npy", "it has 5 steps, and 8 lead to the last of 9"),
    "a frame rate that actions do not serve": (f"steered {PAN} --actions up.npy --fps 7", "10 Hz"),
    "intrinsics of another picture": (
        "steered --camera large.json --actions up.npy",
        "large.json: intrinsics_px are of a picture of 64x64 px, and the video is 32x32 px; multiply fx and cx by 0.5",
    ),
    "left-handed poses": ("steered --camera mirrored.json --actions up.npy", "no rotation (a mirror image)"),
    "a path that is too short": (
        "steered --camera large.json --actions up.npy --num-frames 17",
        "large.json: intrinsics_px are of a picture",
    ),
    "no field of view": (
        "steered --camera pan:20 --actions up.npy",
        "pan:20: it says no field of view, and the run's ",
    ),
    "keys without a table": (f"steered {PAN} --actions keys:wwdd", "what its keys stand for is not said; give --keys "),
    "another robot": (
        f"steered {PAN} --actions up.npy --embodiment arm",
        "--embodiment is 'arm', and the model was tr",
    ),
    "as many of each": (
        f"steered {PAN} {PAN} --actions up.npy --actions up.npy --actions up.npy",
        "2 --camera and 3 --actions do not belong together",
    ),
    "futures of both kinds": (
        f"steered {PAN} --actions up.npy --actions right.npy --num-videos 2",
        "--num-videos 2 asks for futures of several seeds",
    ),
    "nothing to draw": (
        "plain --draw-conditions",
        "--draw-conditions is about --camera or --actions, which is not giv",
    ),
    "guidance that was not trained": (
        f"steered {PAN} --actions up.npy sample.guide_condition=true",
        "sample.guide_condition=true leads away from a camera path and actions of zeros",
    ),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(
    line: str, said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    """One error each, and before any weights are read."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("cosmos_launch.cli.sample.open_world", lambda _found: pytest.fail("weights were read"))
    assert main(["sample", *line.split(), "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.startswith("cosmos-train: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_complaint_4_a_checkpoint_without_its_statistics(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    """Nothing is sampled without what actions are normalised with."""
    [statistics] = (folder / "steered/checkpoints").glob("*/action_statistics.json")
    kept = statistics.read_text()
    statistics.unlink()
    try:
        assert sample(folder, tmp_path, f"{PAN} --actions up.npy") == 2
    finally:
        statistics.write_text(kept)
    assert "is of a model that reads actions, and its action_statistics.json is missing" in capfd.readouterr().err


def test_other_statistics_than_those_that_were_saved_are_damage(folder: Path, tmp_path: Path):
    copy = tmp_path / "step-00000001"
    shutil.copytree(folder / "steered/checkpoints/step-00000001", copy)
    statistics = copy / "action_statistics.json"
    statistics.write_text(statistics.read_text().replace("quantiles", "standard"))
    try:
        with pytest.raises(CheckpointError, match=r"is damaged \(action_statistics\.json"):
            open_world(copy)
    finally:
        init.stop()
