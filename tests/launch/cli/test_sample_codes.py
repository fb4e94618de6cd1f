"""`cosmos-train tokenize`, `sample` and `evaluate world` of a real, if untrained, autoregressive model of a simulated
world: files, layouts, long videos, figures, wrong input."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from support import tiny_tokenizer
from support.filled_run import kept_windows

from cosmos_data.caches import window_cache
from cosmos_data.caches.latents import LatentStore
from cosmos_data.caches.shard_file import open_shard
from cosmos_data.simulate.config import DiscsConfig
from cosmos_data.simulate.folder import SimulationRequest, simulate
from cosmos_data.videos.video import probe_video
from cosmos_launch.cli.main import main
from cosmos_launch.jobs.worker import run_rank
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_train.config.load import load_run

FRAMES, SIDE_PX, NUM_CODES = 9, 32, 12
TOKENS = {"num_blocks": 2, "width": 48, "num_heads": 4, "num_kv_heads": 2, "head_dim": 12, "ffn_width": 32}
KINDS: dict[str, dict[str, Any]] = {
    "base": {},
    "video2world": {"begin_token": True, "cross_attention": True, "absolute_positions": True, "text_width": 384},
    "medusa": {"medusa_heads": 2},
}


def write_yaml(folder: Path, kind: str, tokenizer: str = "discrete") -> Path:
    """A run of one step of that kind."""
    sections = {
        "recipe": "world_ar",
        "run_dir": str(folder / kind),
        "data": {"manifest": str(folder / "world/manifest.arrow"), "num_frames": FRAMES}
        | {"height_px": SIDE_PX, "width_px": SIDE_PX},
        "latents": {"folder": str(folder / f"codes_{tokenizer}"), "tokenizer": str(folder / tokenizer)},
        "text": {"max_tokens": 8},
        "model": TOKENS | {"vocab_size": NUM_CODES} | KINDS[kind],
        "objective": {"condition_frames": 0 if kind == "video2world" else 1},
        "train": {"num_steps": 1, "global_batch_size": 2, "micro_batch_size": 2},
        "optim": {"lr": 1e-3},
        "tracking": {"wandb": "disabled"},
    }
    path = folder / f"{kind}_{tokenizer}.yaml"
    OmegaConf.save(OmegaConf.create(sections), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated world, tokenizers, and a run of one step of each kind on the codes of all its clips."""
    folder = tmp_path_factory.mktemp("codes")
    simulate(folder / "world", SimulationRequest(world=DiscsConfig(num_frames=FRAMES), num_train=2, num_heldout=2))
    torch.manual_seed(0)
    for name, codec in (("discrete", tiny_tokenizer.DISCRETE), ("continuous", tiny_tokenizer.CONTINUOUS)):
        model = CausalVideoTokenizer(codec)
        model.init_weights()  # a wavelet code, so that codes differ from place to place
        save_tokenizer(folder / name, model, codec, {})
    for kind in KINDS:
        assert main(["tokenize", str(write_yaml(folder, kind))]) == 0
        assert run_rank(load_run(str(folder / f"{kind}_discrete.yaml"))) == 0
    Image.new("RGB", (SIDE_PX, SIDE_PX), (200, 40, 40)).save(folder / "first.png")
    Image.new("RGB", (2 * SIDE_PX, SIDE_PX), (200, 40, 40)).save(folder / "wide.png")
    return folder


def sample(folder: Path, kind: str, out: Path, *more: str, given: str = "first.png") -> dict[str, Any]:
    """A video by the command, of seed 3; its JSON."""
    line = ["sample", str(folder / kind), "--out", str(out), "--seed", "3", "--input", str(folder / given), *more]
    assert main(line) == 0
    return json.loads((out / "seed-0003.json").read_text())


def test_the_cache_holds_codes(folder: Path):
    store = LatentStore(folder / "codes_discrete")
    codes = torch.cat([store.window(k).z_CTHW.flatten() for k in range(len(store))])
    assert store.latent_shape == (1, 3, 4, 4) and not codes.is_floating_point()
    assert codes.min() >= 0 and codes.max() < NUM_CODES


@pytest.mark.parametrize("kind", KINDS)
def test_video_and_what_it_was_made_of(kind: str, folder: Path, tmp_path: Path):
    prompt = ["--prompt", "a red disc"] if kind == "video2world" else []
    facts = sample(folder, kind, tmp_path, *prompt, "sample.top_k=5", "sample.top_p=1")
    info = probe_video(tmp_path / "seed-0003.mp4")
    assert (info.num_frames, info.height_px, info.width_px) == (FRAMES, SIDE_PX, SIDE_PX)
    assert info.fps == pytest.approx(24), "the training data's"
    named = {key: facts["sample"][key] for key in ("temperature", "top_p", "top_k", "num_condition_frames")}
    assert named == {"temperature": 1.0, "top_p": 1.0, "top_k": 5, "num_condition_frames": 1}
    assert facts["step"] == 1 and len(facts["weights_digest"]) == 64 and facts["layout"] == "tp1 pp1 cp1 dp1"


def test_from_text_alone(folder: Path, tmp_path: Path):
    assert main(["sample", str(folder / "video2world"), "--out", str(tmp_path), "--prompt", "a red disc"]) == 0
    assert probe_video(tmp_path / "seed-0000.mp4").num_frames == FRAMES


def test_nine_given_frames_and_windows_that_go_on(folder: Path, tmp_path: Path):
    """Two latent frames here are 5 pixel frames."""
    clip = next((folder / "world/heldout").glob("*.avi")).relative_to(folder)
    facts = sample(folder, "base", tmp_path, "--num-frames", "15", "sample.num_condition_frames=2", given=str(clip))
    assert facts["num_frames"] == 15 == probe_video(tmp_path / "seed-0003.mp4").num_frames


def test_futures_of_one_state(folder: Path, tmp_path: Path):
    """Each is the video that its seed gives alone, also where ranks divide the model."""
    sample(folder, "base", tmp_path / "together", "--num-videos", "3", "sample.top_p=1")
    sample(folder, "base", tmp_path / "alone", "sample.top_p=1")
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    line = ["sample", str(folder / "base"), "--out", str(tmp_path / "divided"), "--seed", "3", "--nproc", "2"]
    line += ["--input", str(folder / "first.png"), "parallel.tp=2", "sample.top_p=1"]
    command = [sys.executable, "-m", "cosmos_launch.cli", *line]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "together").glob("*.mp4")}
    assert names == {"grid.mp4", "seed-0003.mp4", "seed-0004.mp4", "seed-0005.mp4"}
    videos = {name: (tmp_path / name / "seed-0003.mp4").read_bytes() for name in ("together", "alone", "divided")}
    assert videos["together"] == videos["alone"] == videos["divided"]
    assert (tmp_path / "together/seed-0004.mp4").read_bytes() != videos["alone"]


def test_heads_change_no_likeliest_video(folder: Path, tmp_path: Path):
    """By default all heads guess. What they are asked to be is written beside the video."""
    facts = sample(folder, "medusa", tmp_path / "guessed", "sample.temperature=0")
    sample(folder, "medusa", tmp_path / "plain", "sample.temperature=0", "sample.medusa_heads=0")
    videos = [(tmp_path / name / "seed-0003.mp4").read_bytes() for name in ("guessed", "plain")]
    assert videos[0] == videos[1] and facts["sample"]["medusa_heads"] is None


def test_a_run_that_encodes_its_own_windows(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Codes in the cache; trained on alike whether they were there or not; sampled and judged without them."""
    line = [str(write_yaml(folder, "base")), "latents.fill=true", f"latents.folder={tmp_path}/windows"]
    for name in ("missed", "found"):
        assert run_rank(load_run(line[0], [*line[1:], f"run_dir={tmp_path}/{name}"])) == 0
    losses = [(tmp_path / name / "metrics.jsonl").read_text().split('"loss": ')[1][:18] for name in ("missed", "found")]
    assert losses[0] == losses[1]
    assert main(["tokenize", *line, "--samples", "2"]) == 0
    assert "0 windows encoded, 2 were there already" in capfd.readouterr().out
    [path] = (tmp_path / "windows" / window_cache.FOLDER).iterdir()
    facts = open_shard(path, window_cache.KIND).facts
    assert (facts["dtype"], facts["shape"]) == ("int32", [1, 3, 4, 4]) and len(kept_windows(tmp_path / "windows")) == 2
    shutil.rmtree(tmp_path / "windows")
    out, given = tmp_path / "out", str(folder / "first.png")
    assert main(["sample", str(tmp_path / "missed"), "--out", str(out), "--input", given]) == 0
    assert probe_video(out / "seed-0000.mp4").num_frames == FRAMES
    assert main(["evaluate", "world", str(tmp_path / "missed"), "--out", str(tmp_path / "figures.json")]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["perplexity"].keys() == {"model", "unigram"}


@pytest.mark.parametrize("kind", KINDS)
def test_figures_on_held_out_windows(kind: str, folder: Path, tmp_path: Path):
    out = tmp_path / "figures.json"
    assert main(["evaluate", "world", str(folder / kind), "sample.temperature=0", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["num_windows"] == 2 and len(figures["pixel_mse_by_frame"]["model"]) == FRAMES - 1
    assert 0 <= figures["code_error"]["model"] <= 1
    store = LatentStore(folder / "codes_discrete")
    codes = {split: [store.window(k).z_CTHW for k in store.indices(split)] for split in ("train", "heldout")}
    times = torch.bincount(torch.stack(codes["train"]).flatten(), minlength=NUM_CODES) + 1.0
    label = torch.stack(codes["heldout"])[:, 0].flatten(1)[:, 15 if kind == "video2world" else 16 :].flatten().long()
    surprise = -(times / times.sum()).log()[label].mean()
    assert figures["perplexity"]["unigram"] == pytest.approx(math.exp(surprise), rel=1e-5)
    assert 1 < figures["perplexity"]["model"] < NUM_CODES**2


WRONG = {
    "nothing to begin with": ("base", "this model goes on from given frames: it was trained with objective.condition_"),
    "text that nobody reads": ("base --prompt disc --input first.png", "--prompt is for a model that reads text, and "),
    "size of the first frame": ("base --input wide.png", "and this model was trained at 32x32 px; give a picture of"),
    "all frames given": (
        "base --input world sample.num_condition_frames=3",
        "sample.num_condition_frames=3, but the video has 3 latent frames, given ones included; use 1 to 2",
    ),
    "more frames than a window": ("base --input first.png sample.num_condition_frames=4", "was trained on 3"),
    "no frames given": ("base --input first.png sample.num_condition_frames=0", "but sample.num_condition_frames=0;"),
    "context parallel": ("base --input first.png --nproc 2 parallel.cp=2", "parallel.cp=2 divides many tokens at once"),
    "a sampler of the other kind": (
        "base sample.guidance=3",
        "sample.guidance is no key of a world_ar run, only of world_dit",
    ),
    "heads that are not there": (
        "base --input first.png sample.medusa_heads=2",
        "sample.medusa_heads=2, but the model has model.medusa_heads=0; use at most 0",
    ),
    "temperature": ("base sample.temperature=-1", "sample.temperature=-1.0 must be at least 0"),
}


FIRST_OF_TWO = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(("line", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(
    line: str, said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(folder)
    for name, value in FIRST_OF_TWO.items() if "--nproc" in line else ():
        monkeypatch.setenv(name, value)
    clip = next((folder / "world/heldout").glob("*.avi"))
    words = [str(clip) if word == "world" else word for word in line.replace("--nproc 2 ", "").split()]
    assert main(["sample", *words, "--out", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.startswith("cosmos-train: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_continuous_tokenizer(folder: Path, capfd: pytest.CaptureFixture):
    assert main(["tokenize", str(write_yaml(folder, "base", "continuous"))]) == 2
    assert "continuous is continuous, and an autoregressive model reads codes" in capfd.readouterr().err
