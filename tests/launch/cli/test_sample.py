"""`cosmos-train sample` from a real, if untrained, world model on disk: files, layouts, long videos, wrong input."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support import tiny_tokenizer, tiny_world
from support.latent_cache import LatentWriter
from support.training import train_stirred
from torch import Tensor

from cosmos_data.caches.latents import LatentMetadata
from cosmos_data.config import DataConfig
from cosmos_data.videos.media import read_first_frames
from cosmos_data.videos.video import probe_video
from cosmos_launch.cli.main import main
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_train.config.schema import LatentsConfig
from cosmos_train.interop.adapter_files import write_adapters
from cosmos_train.interop.adapters import Adapters, LowRank
from cosmos_train.interop.source import open_source
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.text.config import TextConfig
from cosmos_train.train.checkpoint.load import load_weights
from cosmos_train.windows.kept import STATISTICS
from cosmos_train.worlds.opening import open_world

FRAMES, HEIGHT_PX, WIDTH_PX = 9, 32, 48
LATENTS_CTHW = (4, 3, 4, 6)
TEXT_WIDTH, FPS = 384, 12.0


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on random latents with the tokenizer that its latent cache names, and one in bf16 without
    dropout and without an average of its weights."""
    folder = tmp_path_factory.mktemp("sampling")
    torch.manual_seed(0)
    codec = tiny_tokenizer.CONTINUOUS
    save_tokenizer(folder / "tokenizer", CausalVideoTokenizer(codec), codec, {})
    text = TextConfig(max_tokens=8)
    data = DataConfig(manifest="unused.parquet", num_frames=FRAMES, height_px=HEIGHT_PX, width_px=WIDTH_PX)
    writer = LatentWriter(
        folder / "latents",
        LatentMetadata(
            tokenizer_digest=tokenizer_digest(folder / "tokenizer"),
            text_encoder=text.identity_on("cpu"),
            manifest_digest="1" * 64,
            window_frames=FRAMES,
            height_px=HEIGHT_PX,
            width_px=WIDTH_PX,
        ),
    )
    writer.add_text("a ball", torch.randn(3, TEXT_WIDTH))
    writer.add_clip("clip", torch.randn(4, *LATENTS_CTHW), [0, 1, 2, 3], split="train", caption="a ball", fps=FPS)
    writer.finish()
    ones = torch.ones(LATENTS_CTHW[:2])
    save_statistics(folder / "latents" / STATISTICS, LatentStatistics(mean_CT=0 * ones, std_CT=ones))
    tiny = tiny_world.make_run(folder / "latents", folder / "run", ParallelConfig(), num_steps=1)
    run = dataclasses.replace(
        tiny,
        data=data,
        text=text,
        latents=LatentsConfig(folder=str(folder / "latents"), tokenizer=str(folder / "tokenizer")),
        model=dataclasses.replace(tiny.model, text_width=TEXT_WIDTH),
    )
    train_stirred(run)
    precision = dataclasses.replace(run.train, precision="bf16")
    objective = dataclasses.replace(run.objective, text_dropout=0.0, condition_dropout=0.0)
    optim = dataclasses.replace(run.optim, ema_decay=0.0)
    other = dataclasses.replace(run, train=precision, objective=objective, optim=optim)
    train_stirred(dataclasses.replace(other, run_dir=str(folder / "no_dropout")))
    Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (200, 40, 40)).save(folder / "first.png")
    Image.new("RGB", (2 * WIDTH_PX, 3 * HEIGHT_PX), (200, 40, 40)).save(folder / "large.png")
    return folder


def frames(path: Path, num_frames: int) -> Tensor:
    size = DataConfig(manifest="unused.parquet", num_frames=1, height_px=HEIGHT_PX, width_px=WIDTH_PX)
    return read_first_frames(path, num_frames, size, crop=False)


def line_of(folder: Path, out: Path, *more: str) -> list[str]:
    line = ["sample", str(folder / "run"), "--out", str(out), "--prompt", "a red ball", "--seed", "3"]
    return [*line, "sample.num_steps=3", *more]


def sample(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    """A video of three steps by the command, of seed 3; its JSON."""
    assert main(line_of(folder, out, *more)) == 0
    return facts_of(out)


def facts_of(out: Path, name: str = "seed-0003") -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


def test_video_and_what_it_was_made_of(run_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    facts = sample(run_dir, out, "--input", str(run_dir / "first.png"), "sample.negative_prompt=blurry, static")
    assert sorted(path.name for path in out.iterdir()) == ["seed-0003.json", "seed-0003.mp4"]
    info = probe_video(out / "seed-0003.mp4")
    assert (info.num_frames, info.height_px, info.width_px) == (FRAMES, HEIGHT_PX, WIDTH_PX)
    assert info.fps == pytest.approx(FPS), "the training data's"
    assert (facts["prompt"], facts["sample"]["negative_prompt"], facts["seed"]) == ("a red ball", "blurry, static", 3)
    assert (facts["sample"]["guidance"], facts["sample"]["sampler"], facts["sample"]["num_steps"]) == (7.0, "euler", 3)
    assert facts["step"] == 1 and facts["averaged_weights"] and len(facts["weights_digest"]) == 64
    assert facts["layout"] == "tp1 pp1 cp1 dp1" and facts["input"].endswith("first.png")
    assert min(facts["conditioned_sec"], facts["sampled_sec"], facts["decoded_sec"]) > 0


def test_a_model_that_always_had_text_is_given_some(run_dir: Path, tmp_path: Path):
    """In the number format that it was trained in. Complaint 15: weights that are no average are said to be none."""
    line = ["sample", str(run_dir / "no_dropout"), "--out", str(tmp_path), "sample.num_steps=2"]
    assert main([*line, "sample.negative_prompt=blurry"]) == 0
    assert probe_video(tmp_path / "seed-0000.mp4").num_frames == FRAMES
    assert facts_of(tmp_path, "seed-0000")["averaged_weights"] is False


@pytest.mark.parametrize(("name", "averaged"), [("run", True), ("no_dropout", False)])
def test_complaint_15_the_average_is_opened_where_there_is_one(run_dir: Path, name: str, averaged: bool):
    """And the weights of the last step where there is none, as `averaged_weights` says in the JSON."""
    world = open_world(run_dir / name)
    opened = world.weights_digest()
    load_weights(world.path, world.pieces, world.mesh, averaged=False)
    assert world.require_trained().averaged is averaged
    assert (world.weights_digest() != opened) is averaged
    init.stop()


def test_guidance_of_the_given_frames_has_an_effect(run_dir: Path, tmp_path: Path):
    given = ["--input", str(run_dir / "first.png"), "sample.guidance=7"]
    guided = sample(run_dir, tmp_path / "guided", *given, "sample.guide_frames=true")
    sample(run_dir, tmp_path / "usual", *given)
    assert guided["sample"]["guide_frames"]
    videos = [frames(tmp_path / name / "seed-0003.mp4", FRAMES).float() for name in ("guided", "usual")]
    assert (videos[0] - videos[1])[:, 1:].abs().mean() > 1


@pytest.mark.parametrize("solver", ["2ab", "2mid"])
def test_ways_of_sampling_have_names(solver: str, run_dir: Path, tmp_path: Path):
    facts = sample(run_dir, tmp_path, f"sample=sample/released_{solver}", "sample.num_steps=2")
    named = {key: facts["sample"][key] for key in ("sampler", "start_std", "sigma_min", "num_steps")}
    assert named == {"sampler": solver, "start_std": "sigma_max", "sigma_min": 0.002, "num_steps": 2}


def test_futures_of_one_state(run_dir: Path, tmp_path: Path):
    """Each is the video that its seed gives alone; the grid shows all of them in the order of their seeds."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    given = ["--input", str(run_dir / "first.png")]
    sample(run_dir, together, "--num-videos", "3", *given)
    assert main(line_of(run_dir, alone, *given, "--seed", "5")) == 0
    seeds = ["seed-0003", "seed-0004", "seed-0005"]
    assert {path.name for path in together.glob("*.mp4")} == {f"{name}.mp4" for name in ["grid", *seeds]}
    assert {path.stem for path in together.glob("*.json")} == {path.stem for path in together.glob("*.mp4")}
    videos = [frames(together / f"{name}.mp4", FRAMES).float() for name in seeds]
    assert (videos[2] - frames(alone / "seed-0005.mp4", FRAMES)).abs().mean() < 0.5
    assert (videos[0] - videos[1]).abs().mean() > 2, "they differ"
    info = probe_video(together / "grid.mp4")
    assert (info.height_px, info.width_px, info.num_frames) == (2 * HEIGHT_PX, 2 * WIDTH_PX, FRAMES)
    assert facts_of(together, "grid")["seeds"] == [3, 4, 5]


@pytest.mark.parametrize(("num_frames", "like_first"), [(21, FRAMES), (4, 4)])
def test_length(num_frames: int, like_first: int, run_dir: Path, tmp_path: Path):
    """A longer video begins with the model's own, and goes on from its last frame; a shorter one is cut."""
    facts = sample(run_dir, tmp_path / "long", "--num-frames", str(num_frames))
    assert facts["num_frames"] == num_frames == probe_video(tmp_path / "long/seed-0003.mp4").num_frames
    if num_frames > FRAMES:
        sample(run_dir, tmp_path / "short")
        long, short = (frames(tmp_path / name / "seed-0003.mp4", like_first).float() for name in ("long", "short"))
        assert (long - short).abs().mean() < 2


def test_two_ranks_make_the_same_video(run_dir: Path, tmp_path: Path):
    """Through the processes that a person would start, guidance divided between them."""
    one = sample(run_dir, tmp_path / "one")
    line = line_of(run_dir, tmp_path / "two", "sample.cfg_parallel=true", "--nproc", "2")
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "cosmos_launch.cli", *line], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "two/seed-0003.mp4")
    two = facts_of(tmp_path / "two")
    assert two["layout"] == "tp1 pp1 cp1 dp2" and two["weights_digest"] == one["weights_digest"]
    assert (tmp_path / "one/seed-0003.mp4").read_bytes() == (tmp_path / "two/seed-0003.mp4").read_bytes()


def test_a_prompt_that_is_too_long_is_cut_and_said_to_be(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sample(run_dir, tmp_path / "out", "--prompt", "rain " * 20)
    assert "the prompt is cut by 14 tokens to text.max_tokens=8" in capsys.readouterr().err


WRONG = {
    "size of the first frame": (
        "run --input large.png",
        "large.png is 96x96 px, and this model was trained at 48x32 px; give a picture of that size, or add --crop",
    ),
    "no frames to condition on": (
        "run --input first.png sample.num_condition_frames=0",
        "--input gives a Video2World model its first frames, but model.condition_mask=True and sample.num_condition_",
    ),
    "nothing to crop": ("run --crop", "--crop is about the frames of --input, which is not given"),
    "negative fps": ("run --fps -3", "--fps -3.0 must be greater than 0"),
    "no fps": ("run --fps nan", "--fps nan must be greater than 0"),
    "no frames": ("run --num-frames 0", "--num-frames 0 must be at least 1"),
    "no processes": ("run --nproc 0", "--nproc 0 must be at least 1"),
    "guidance without a negative prompt": (
        "no_dropout",
        "sample.guidance=7.0 leads away from sample.negative_prompt, which is empty, and this model was trained with "
        "objective.text_dropout=0, so it has never seen a video without text; give a negative prompt, or switch",
    ),
    "no guidance by the other formula": (
        "run sample.guidance_from=uncond sample.guidance=0.5",
        "sample.guidance=0.5 must be 1 (off) or greater with sample.guidance_from=uncond",
    ),
    "nothing to divide": (
        "run sample.cfg_parallel=true sample.guidance=0",
        "sample.cfg_parallel=true computes the two branches of guidance at once, but sample.guidance=0.0 is none",
    ),
    "no frames to lead away from": (
        "no_dropout --input first.png sample.guide_frames=true sample.negative_prompt=grey",
        "sample.guide_frames=true leads away from conditioning frames of zeros, and this model was trained with ",
    ),
    "frames without guidance": (
        "run sample.guide_frames=true sample.guidance=0",
        "sample.guide_frames=true takes the conditioning frames from one branch of guidance, but sample.guidance=0.0",
    ),
    "guidance on one rank": ("run sample.cfg_parallel=true", "needs two halves of the data-parallel ranks, but 1 "),
    "more ranks than there are": ("run parallel.tp=2", "parallel.tp=2 * parallel.pp=1 * parallel.cp=1 = 2 does not "),
    "windows of one given frame": (
        "run --num-frames 30 sample.num_condition_frames=0",
        "--num-frames 30 is longer than the 9 frames of a window, and windows go on from each other only in a ",
    ),
    "windows that add nothing": (
        "run --num-frames 30 sample.num_condition_frames=3",
        "30 frames take more than one window of 9, and 9 overlapping frames must be at least 1 and fewer than a ",
    ),
    "a key of training": ("run train.num_steps=3", "override 'train.num_steps=3': only sample.key=value and "),
    "no such file": ("run sample=sample/released_3ab", "there is no file sample/released_3ab.yaml, and none of that"),
    "unknown key": ("run sample.colour=red", "unknown key sample.colour"),
}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(
    line: str, said: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(run_dir)
    assert main(["sample", *line.split(), "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.startswith("cosmos-train: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("videos", "settings", "said"),
    [
        (1, [], "--num-videos 1 leaves some of 2 groups of ranks without a video"),
        (2, ["parallel.pp=2", "parallel.pp_chunks=2", "sample.guidance=0"], ""),
        (1, ["parallel.pp=2", "parallel.pp_chunks=2", "sample.guidance=0"], "a step has 1 of them"),
    ],
)
def test_layouts_that_have_no_work(videos: int, settings: list[str], said: str, run_dir: Path):
    from cosmos_train.config.errors import ConfigError
    from cosmos_train.config.validate import check_sampling
    from cosmos_train.worlds.run import find_run

    run = find_run(run_dir / "run", settings).run
    if not said:
        check_sampling(run, 2, num_videos=videos, num_frames=FRAMES, has_input=True)
        return
    with pytest.raises(ConfigError, match=said):
        check_sampling(run, 2, num_videos=videos, num_frames=FRAMES, has_input=True)


def adapter_of(folder: Path, out: Path) -> Path:
    """A file of adapters of the run's model, as diffusers has it, with numbers that are not small."""
    entries = open_source(folder / "run").entries
    matrices = dict[str, LowRank]()
    for entry in entries:
        for name, shape in entry.official.items():
            if ".attn.to_q.0." in name:
                matrices[name] = LowRank(torch.ones(2, shape[1]), torch.ones(shape[0], 2), 0.05)
    out.mkdir()
    return write_adapters(out, Adapters(matrices=matrices, where="here"), "diffusers", in_diffusers=True)


def test_adapters_are_added(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Complaint 8, several of them: half of one and half of the same are the whole; their strengths are told."""
    file = adapter_of(run_dir, tmp_path / "lora")
    given = ("--input", str(run_dir / "first.png"))
    plain = sample(run_dir, tmp_path / "plain", *given)
    whole = sample(run_dir, tmp_path / "whole", *given, "--adapter", str(file))
    halves = sample(run_dir, tmp_path / "halves", *given, *(2 * ("--adapter", f"{file}=0.5")))
    assert (plain["adapters"], whole["adapters"], halves["adapters"]) == ([], [str(file)], 2 * [f"{file}=0.5"])
    assert plain["weights_digest"] != whole["weights_digest"] == halves["weights_digest"]
    videos = [(tmp_path / name / "seed-0003.mp4").read_bytes() for name in ("plain", "whole", "halves")]
    assert videos[0] != videos[1] == videos[2]
    for wrong, said in ((f"{file}=0", "changes no number of"), (f"{file}=much", "'much' is no number")):
        assert main(line_of(run_dir, tmp_path / "wrong", *given, "--adapter", wrong)) == 2
        assert said in capfd.readouterr().err and not (tmp_path / "wrong").exists()
