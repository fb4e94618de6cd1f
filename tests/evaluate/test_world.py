"""`cosmos-train evaluate world` predicts what `sample` samples: the same video of the same seed, text and frames."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import filled_run, tiny_world
from torch import Tensor

from cosmos_data.decoders.decode import choose_decoder
from cosmos_data.manifests.manifest import Manifest
from cosmos_launch.cli.main import main
from cosmos_launch.cli.sample import sample_request
from cosmos_launch.cli.sample_request import SampleRequest
from cosmos_tok.config import NotFiniteError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.evaluate.held_out import regular_windows
from cosmos_train.evaluate.world import _require_finite, predict, read_captions
from cosmos_train.parallel import init
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.loop import DONE, train
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import find_run
from cosmos_train.worlds.world import Clock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs: run, no_dropout without text dropout, and text2world, each of a step."""
    folder = tmp_path_factory.mktemp("evaluate")
    run = filled_run.make_run(filled_run.write_inputs(folder), folder / "cache", folder / "run")
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, num_steps=1))
    train_here(run, folder / "run")
    objective = dataclasses.replace(run.objective, text_dropout=0.0)
    train_here(dataclasses.replace(run, objective=objective), folder / "no_dropout")
    objective = dataclasses.replace(run.objective, max_condition_frames=0)
    model = dataclasses.replace(run.model, condition_mask=False)
    train_here(dataclasses.replace(run, objective=objective, model=model), folder / "text2world")
    return folder


def train_here(run: WorldDiTRun, run_dir: Path) -> None:
    run, mesh = dataclasses.replace(run, run_dir=str(run_dir)), init.start(run.parallel, seed=run.seed)
    run_dir.mkdir()
    task = WorldDiTTask(run, mesh)
    tiny_world._stir_zeros(task, mesh)  # else text would have no effect yet
    assert train(run, task, mesh, code_version="test") == DONE
    init.stop()


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


def test_figures_that_are_not_finite_are_no_result():
    facts = {"checkpoint": "step-2", "latent_mse": {"model": 0.3, "repeat_last_frame": 0.0}, "ratio": None}
    _require_finite(facts, "latent_mse")
    _require_finite(facts | {"perplexity": {"model": 4.0}}, "latent_mse")
    for bad in ({"latent_mse": {"model": math.nan}}, {"perplexity": {"model": math.inf}}):
        with pytest.raises(NotFiniteError, match=r"step-2: (latent_mse|perplexity) of model is (nan|inf)"):
            _require_finite(facts | bad, "latent_mse")
