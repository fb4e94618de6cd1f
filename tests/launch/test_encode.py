"""`cosmos-train tokenize RUN.yaml`: a finished cache is compared with what is asked for; of a run that fills its own,
windows ahead of it. Such a run is sampled and judged without its cache."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support import filled_run

from cosmos_data.config import DataConfig
from cosmos_data.video import probe_video
from cosmos_launch.cli import main
from cosmos_train.config.load import to_yaml


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def write_yaml(inputs: Path, folder: Path, **latents) -> str:
    """Of a run in folder/run with its cache in folder/cache."""
    path = folder / "run.yaml"
    path.write_text(to_yaml(filled_run.make_run(inputs, folder / "cache", folder / "run", **latents)))
    return str(path)


def test_a_run_finds_all_that_was_encoded_ahead(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """The windows and their texts, in two goes; it is trained on the same bits as one that encodes as it goes."""
    (tmp_path / "ahead").mkdir()
    line = ["tokenize", write_yaml(inputs, tmp_path / "ahead"), "--samples"]
    assert main([*line, "5"]) == 0
    assert "5 windows encoded, 0 were there already; the run takes 12" in capfd.readouterr().out
    assert main([*line, str(filled_run.NUM_WINDOWS)]) == 0
    assert "7 windows encoded, 5 were there already" in capfd.readouterr().out
    for name, num_encoded in (("ahead", 0), ("as_it_goes", filled_run.NUM_WINDOWS)):
        run = filled_run.make_run(inputs, tmp_path / name / "cache", tmp_path / name / "run")
        assert filled_run.train_here(run) == num_encoded
    trained = [filled_run.trained(tmp_path / name / "run") for name in ("ahead", "as_it_goes")]
    assert len(trained[0]) == 3 and trained[0] == trained[1]


def test_an_epoch_by_default(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["tokenize", write_yaml(inputs, tmp_path)]) == 0
    assert "3 windows encoded" in capfd.readouterr().out, "of three training clips"


def test_a_run_that_filled_its_cache_is_sampled_and_judged_without_it(inputs: Path, tmp_path: Path):
    run = filled_run.make_run(inputs, tmp_path / "cache", tmp_path / "run")
    filled_run.train_here(run)
    shutil.rmtree(tmp_path / "cache")
    out = tmp_path / "out"
    line = [str(tmp_path / "run"), "sample.num_steps=2", "--out"]
    assert main(["sample", *line, str(out), "--prompt", "a red ball"]) == 0
    info = probe_video(out / "seed-0000.mp4")
    assert (info.num_frames, info.height_px, info.width_px) == (9, 32, 48)
    assert info.fps == pytest.approx(json.loads((out / "seed-0000.json").read_text())["fps"])
    assert main(["evaluate", "world", *line, str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [window["start_frame"] for window in figures["windows"]] == [90, 98, 106], "every 8 of the held-out clip"
    assert figures["latent_mse"]["model"] > 0


def test_what_can_not_be_filled_ahead(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    filled = write_yaml(inputs, tmp_path)
    for more, said in (
        (["--samples", "0"], "--samples 0 must be at least 1"),
        (["--samples", "10", "latents.max_gib=1e-6"], "is less than the 1.07e-05 GiB of so many windows"),
        (["--samples", "1", "latents.fill=false"], "--samples is for a run with latents.fill=true"),
    ):
        assert main(["tokenize", filled, *more]) == 2
        assert said in capfd.readouterr().err


def test_a_finished_cache_is_of_what_was_asked_for(inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    line = ["tokenize", write_yaml(inputs, tmp_path, fill=False)]
    assert main(line) == 0 and "windows, " in capfd.readouterr().out
    assert main(line) == 0 and "is complete already" in capfd.readouterr().out
    (tmp_path / "bad.jsonl").write_text(json.dumps({"digest": "0" * 64}))
    for change, said in (
        (f"data.quarantine={tmp_path}/bad.jsonl", " quarantine="),
        ("data.height_px=48", "was made with height_px=32, and this run has 48; remove it and make it again"),
        ("data.width_px=32", "was made with width_px=48, and this run has 32"),
        ("data.frame_stride=2", "was made with frame_stride=1, and this run has 2"),
        ("latents.hop_frames=4", "was made with windows=hop_frames=8 target_fps=None resize=resize_crop, and this run"),
        ("latents.planned_per_clip=2", "planned_per_clip=2 seed=3 flip=True"),
    ):
        assert main([*line, change]) == 2
        assert said in capfd.readouterr().err


def test_what_windows_are_a_function_of_is_said_of_a_cache():
    """Shards are named by that: a setting that is new here belongs to encode._windows_asked, or to reading."""
    in_metadata = {"manifest", "num_frames", "frame_stride", "height_px", "width_px"}
    in_windows_asked = {"target_fps", "resize", "flip", "quarantine"}
    of_no_finished_cache = {"blend", "buckets"}
    of_reading = {"decoder", "max_bad_share", "prefetch_batches", "memory_mib", "stall_sec", "num_workers"}
    known = in_metadata | in_windows_asked | of_no_finished_cache | of_reading
    assert {setting.name for setting in dataclasses.fields(DataConfig)} == known
