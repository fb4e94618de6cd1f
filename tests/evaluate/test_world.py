"""`cosmos-train evaluate world` predicts what `sample` samples: the same video of the same seed, text and frames."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support import filled_run
from support.training import train_stirred
from torch import Tensor

from cosmos_data.decoders.decode import choose_decoder
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.manifest import Manifest
from cosmos_launch.cli.main import main
from cosmos_launch.cli.sample import sample_request
from cosmos_launch.cli.sample_request import SampleRequest
from cosmos_tok.config import NotFiniteError
from cosmos_train.config.errors import ConfigError
from cosmos_train.evaluate.held_out import regular_windows, run_to_be_judged_on
from cosmos_train.evaluate.world import _require_finite, predict, read_captions
from cosmos_train.interop.names import official_tensors
from cosmos_train.interop.official_dit import write_official
from cosmos_train.interop.source import open_source
from cosmos_train.parallel import init
from cosmos_train.train.checkpoint.load import has_average
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import find_run
from cosmos_train.worlds.world import Clock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs: run, no_dropout of other clips without text dropout, and text2world, each of a step."""
    folder = tmp_path_factory.mktemp("evaluate")
    run = filled_run.make_run(filled_run.write_inputs(folder), folder / "cache", folder / "run")
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, num_steps=1))
    train_stirred(run)
    build_manifest(folder / "videos", clip_frames=20, heldout_every=4).manifest.write(folder / "shorter.arrow")
    data = dataclasses.replace(run.data, manifest=str(folder / "shorter.arrow"))
    objective = dataclasses.replace(run.objective, text_dropout=0.0)
    train_stirred(dataclasses.replace(run, objective=objective, data=data, run_dir=str(folder / "no_dropout")))
    objective = dataclasses.replace(run.objective, max_condition_frames=0)
    model = dataclasses.replace(run.model, condition_mask=False)
    train_stirred(dataclasses.replace(run, objective=objective, model=model, run_dir=str(folder / "text2world")))
    return folder


def videos_of_both(folder: Path, tmp_path: Path, *overrides: str) -> tuple[Tensor, Tensor]:
    """Of one held-out window by `evaluate world`, and by `sample` of its first frame, caption, rate and number."""
    settings = ["sample.num_steps=3", *overrides]
    found = find_run(folder / "run", settings)
    world, data = open_world(found), found.run.data
    window = regular_windows(world.require_trained(), "heldout", 10)[1]
    pixels = choose_decoder(data, [Manifest([window.sample.clip])]).decode([window.sample])
    evaluated = world.decode(predict(world, [window], pixels, read_captions(world, [window])))
    first = pixels[0, :, 0].permute(1, 2, 0).numpy()
    Image.fromarray(first).save(tmp_path / "first.png")
    request = SampleRequest(
        prompt=window.caption, input_path=tmp_path / "first.png", seed=window.number, fps=window.sample.fps
    )
    sampled = sample_request(world, request, data, [request.seed], 9, Clock())
    init.stop()
    return evaluated, sampled


def test_the_same_video_as_sample_makes(folder: Path, tmp_path: Path):
    blurry = "sample.negative_prompt=a blurry picture"
    evaluated, sampled = videos_of_both(folder, tmp_path, blurry)
    assert evaluated.shape == (1, 3, 9, 32, 48)
    assert torch.equal(evaluated, sampled)
    for settings in (["sample.negative_prompt=grey"], [blurry, "sample.guidance=2"]):
        other, sampled = videos_of_both(folder, tmp_path, *settings)
        assert torch.equal(other, sampled)
        assert not torch.equal(other, evaluated), "each of them has an effect"


WRONG = {
    "guidance without a negative prompt": (
        "no_dropout",
        "sample.guidance=7.0 leads away from sample.negative_prompt, which is empty, and this model was trained with ",
    ),
    "guidance on one rank": ("run sample.cfg_parallel=true", "needs two halves of the data-parallel ranks, but 1 "),
    "more ranks than there are": ("run parallel.tp=2", "parallel.tp=2 * parallel.pp=1 * parallel.cp=1 = 2 does not "),
    "nothing to go on from": ("run sample.num_condition_frames=0", "leaves no frame to predict from or to repeat"),
    "a model without first frames": (
        "text2world",
        "is of a Text2World model (model.condition_mask=false), which goes on ",
    ),
    "no windows": ("run --max-windows 0", "--max-windows 0 must be at least 1"),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(line: str, said: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    name, *more = line.split()
    assert main(["evaluate", "world", str(folder / name), *more, "--out", str(tmp_path / "out.json")]) == 2
    err = capfd.readouterr().err
    assert re.match(r"cosmos-train: .*\n$", err) and said in err
    assert not (tmp_path / "out.json").exists()


def test_a_negative_prompt_is_enough(folder: Path, tmp_path: Path):
    line = ["evaluate", "world", str(folder / "no_dropout"), "sample.num_steps=1", "sample.negative_prompt=blurry"]
    assert main([*line, "--max-windows", "1", "--out", str(tmp_path / "out.json")]) == 0


def evaluated(out: Path, *words: str) -> dict[str, Any]:
    line = ["evaluate", "world", *words, "sample.num_steps=1", "sample.guidance=0", "--max-windows", "2"]
    assert main([*line, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_a_file_that_a_runs_yaml_describes_is_judged_as_the_run(folder: Path, tmp_path: Path):
    source = open_source(folder / "run", weights="ema" if has_average(find_run(folder / "run").folder) else "network")
    file = write_official(tmp_path, "official", official_tensors(source.entries, source.ours))
    config = find_run(folder / "run").folder / "run.yaml"
    of_file = evaluated(tmp_path / "file.json", str(file), "--config", str(config), "--fps", "24")
    of_run = evaluated(tmp_path / "run.json", str(folder / "run"))
    for key in ("measure", of_run["measure"], "pixel_mse_by_frame", "windows"):
        assert of_file[key] == of_run[key]


def test_a_run_is_given_no_rate(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["evaluate", "world", str(folder / "run"), "--fps", "24", "--out", str(tmp_path / "run.json")]) == 2
    assert "--fps 24 is of a file that --config describes" in capfd.readouterr().err


def test_complaint_16_a_model_before_and_after_a_post_training_is_judged_on_the_same_windows(
    folder: Path, tmp_path: Path
):
    """They are the later run's, which the earlier one's manifest has not. What repeating a frame costs is the same in
    pixels; latents are whitened by each run's own statistics."""
    before_run, after_run = str(folder / "run"), str(folder / "no_dropout")
    before = evaluated(tmp_path / "before.json", before_run, "--windows-of", after_run)
    after, own = evaluated(tmp_path / "after.json", after_run), evaluated(tmp_path / "own.json", before_run)
    assert before["windows_of"] == after["windows_of"] == after["checkpoint"] != before["checkpoint"]
    for key in ("clip_id", "start_frame"):
        assert [window[key] for window in before["windows"]] == [window[key] for window in after["windows"]]
    before_mse, after_mse = before["pixel_mse_by_frame"], after["pixel_mse_by_frame"]
    assert before_mse["repeat_last_frame"] == after_mse["repeat_last_frame"]
    assert before_mse["model"] != after_mse["model"]
    assert own["windows_of"] == own["checkpoint"] == before["checkpoint"]
    assert [window["clip_id"] for window in own["windows"]] != [window["clip_id"] for window in before["windows"]]
    assert before["averaged_weights"] is True, "complaint 15: which weights it is of"


def test_windows_of_another_size_are_refused_before_anything_is_loaded(folder: Path, tmp_path: Path):
    other, run = tmp_path / "run/checkpoints/step-00000001", find_run(folder / "run")
    shutil.copytree(run.folder, other)
    settings = (other / "run.yaml").read_text()
    assert settings.count("num_frames: 9\n") == 1
    (other / "run.yaml").write_text(settings.replace("num_frames: 9\n", "num_frames: 17\n"))
    with pytest.raises(ConfigError, match=r"has data.num_frames=17, and .* was trained on 9; name a run with windows"):
        run_to_be_judged_on(other, run)


def test_figures_that_are_not_finite_are_no_result():
    facts = {"checkpoint": "step-2", "latent_mse": {"model": 0.3, "repeat_last_frame": 0.0}, "ratio": None}
    _require_finite(facts, "latent_mse")
    _require_finite(facts | {"perplexity": {"model": 4.0}}, "latent_mse")
    for bad in ({"latent_mse": {"model": math.nan}}, {"perplexity": {"model": math.inf}}):
        with pytest.raises(NotFiniteError, match=r"step-2: (latent_mse|perplexity) of model is (nan|inf)"):
            _require_finite(facts | bad, "latent_mse")
