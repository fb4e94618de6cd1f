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
from support import tiny_tokenizer, tiny_world
from support.latent_cache import LatentWriter
from torch import Tensor

from cosmos_data.caches.latents import LatentMetadata
from cosmos_data.config import DataConfig
from cosmos_data.manifests.conditions import Action
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.steering.camera_path import read_camera
from cosmos_data.steering.steered import SteeredVideo
from cosmos_data.videos.media import read_first_frames
from cosmos_data.videos.video import probe_video
from cosmos_launch.cli.main import main
from cosmos_launch.cli.sample import tell_movement
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_train.config.schema import LatentsConfig, WorldDiTRun
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.text.config import TextConfig
from cosmos_train.train.checkpoint.folder import CheckpointError
from cosmos_train.train.loop import train
from cosmos_train.windows.kept import STATISTICS
from cosmos_train.worlds.opening import open_world

FRAMES, SIZE_PX, FPS, TEXT_WIDTH = 9, 32, 10.0, 384
LATENTS_CTHW = (4, 3, 4, 4)
DATA = DataConfig(manifest="unused.parquet", num_frames=FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
VIDEO = SteeredVideo(num_frames=FRAMES, fps=FPS, height_px=SIZE_PX, width_px=SIZE_PX)


def conditions_of(number: int) -> WindowConditions:
    """A pan and random actions, which differ by window."""
    values = np.random.default_rng(number).normal(size=2 * FRAMES).tolist()
    action = Action(
        names=("x", "y"), units=("px", "px"), rate_hz=FPS, frame_of_reference="picture", values=tuple(values)
    )
    return WindowConditions(camera=read_camera(f"pan:{10 * number},fov_deg=60", VIDEO, DATA), action=action)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`steered`, a run of one step on random latents with conditions, and `plain`, one that reads none."""
    folder = tmp_path_factory.mktemp("steered")
    torch.manual_seed(0)
    save_tokenizer(folder / "tokenizer", CausalVideoTokenizer(tiny_tokenizer.CONTINUOUS), tiny_tokenizer.CONTINUOUS, {})
    text = TextConfig(max_tokens=8)
    metadata = LatentMetadata(
        tokenizer_digest=tokenizer_digest(folder / "tokenizer"),
        text_encoder=text.identity_on("cpu"),
        manifest_digest="1" * 64,
        window_frames=FRAMES,
        height_px=SIZE_PX,
        width_px=SIZE_PX,
    )
    writer = LatentWriter(folder / "latents", metadata)
    writer.add_text("a ball", torch.randn(3, TEXT_WIDTH))
    for number in range(4):
        writer.add_clip(
            f"clip{number}",
            torch.randn(1, *LATENTS_CTHW),
            [0],
            split="train",
            caption="a ball",
            fps=FPS,
            conditions=conditions_of(number),
        )
    writer.finish()
    ones = torch.ones(LATENTS_CTHW[:2])
    save_statistics(folder / "latents" / STATISTICS, LatentStatistics(mean_CT=0 * ones, std_CT=ones))
    for name, reads in (
        ("steered", {"extra_channels": 6, "action_frames": "each", "action_width": 8}),
        ("plain", {}),
    ):
        model = dataclasses.replace(tiny_world.MODEL, num_blocks=2, text_width=TEXT_WIDTH, **reads)
        run = tiny_world.make_run(folder / "latents", folder / name, ParallelConfig(), model, num_steps=1)
        latents = LatentsConfig(folder=str(folder / "latents"), tokenizer=str(folder / "tokenizer"))
        _train(dataclasses.replace(run, data=DATA, text=text, latents=latents))
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


def _train(run: WorldDiTRun) -> None:
    """One step, from weights in which nothing is zero: else no condition would have an effect yet."""
    mesh = init.start(run.parallel, seed=run.seed)
    Path(run.run_dir).mkdir()
    task = WorldDiTTask(run, mesh)
    tiny_world._stir_zeros(task, mesh)
    assert train(run, task, mesh, code_version="test") == 0
    init.stop()


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
    """Where something is to move: by its actions alone, or by its camera alone."""
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
    """What actions are normalised with is there, or nothing is."""
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
