"""The command: help at once and without torch, overrides where a person puts them, and wrong input.

Whatever is wrong with the input is said in one sentence, with an exit code, without a traceback, and nothing of what
was asked for lies half-made under its name.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.footage import CARPHONE

from cosmos_launch.cli import explain
from cosmos_launch.cli.main import main
from cosmos_launch.jobs import spawn, worker
from cosmos_train.config.load import load_run, to_yaml

COMMANDS = (
    *("data", "train", "submit", "status", "report", "checkpoint", "tokenize", "sample", "evaluate"),
    *("ema", "convert", "doctor", "explain"),
)
HEAVY = {"torch", "megatron", "av", "nvidia", "wandb", "transformers", "numpy", "pyarrow", "omegaconf", "rich"}
WORLD, TOKENIZER = "run/demo_world", "run/demo_tokenizer"

SECOND_OF_TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
"""What torchrun tells a rank."""


def command(*arguments: str, **settings) -> subprocess.CompletedProcess[str]:
    """`cosmos-train ARGUMENTS` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), **settings.pop("env", {})}
    line = [sys.executable, *settings.pop("python", []), "-m", "cosmos_launch.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment, **settings)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of videos, a manifest of six clips at 192x144, and things that are not what they are taken for."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("videos", "empty", "cut", "no_run"):
        (folder / name).mkdir()
    shutil.copy(CARPHONE, folder / "videos" / "carphone.mp4")
    (folder / "empty" / "notes.txt").write_text("no video")
    whole = CARPHONE.read_bytes()
    (folder / "cut" / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "no_run" / "run.yaml").write_text("recipe: world_dit\n")
    tokenizer_run = folder / "tokenizer_run" / "checkpoints" / "step-00000001"
    tokenizer_run.mkdir(parents=True)
    (tokenizer_run / "run.yaml").write_text(to_yaml(load_run(TOKENIZER)))
    (tokenizer_run / "complete.json").write_text("{}")
    build = ["data", "build", str(folder / "videos"), "--out", str(folder / "m.parquet"), "--clip-frames", "20"]
    assert main(build) == 0
    return folder


@pytest.fixture
def work(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder beside links to the inputs; the current one."""
    for source in inputs.iterdir():
        (tmp_path / source.name).symlink_to(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Help.


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_comes_at_once_and_needs_nothing_heavy(name: str):
    before = os.times()
    result = command(*name.split(), "--help", python=["-X", "importtime"])
    after = os.times()
    used_sec = after.children_user + after.children_system - before.children_user - before.children_system
    assert used_sec < 2, "of a core: wall time would tell of the machine's other work"
    assert result.returncode == 0 and result.stdout.startswith(f"usage: cosmos-train {name}".rstrip())
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "argparse" in imported and not imported & HEAVY


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"\n    {name}\s", listed) for name in COMMANDS)


# What a person types.


def test_overrides_may_stand_before_and_after_options(capsys: pytest.CaptureFixture[str]):
    line = [WORLD, "parallel.tp=2", "--nproc", "4", "model.num_heads=6", "--check", "seed=3"]
    assert main(["train", *line]) == 0
    assert capsys.readouterr().out == f"{WORLD}: a valid world_dit run for 4 ranks\n"
    assert main(["train", *line, "parallel.tp=4"]) == 2
    assert "model.num_heads=6 is not divisible by parallel.tp=4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "train run/demo_world --colour=red",
        "train run/demo_world seed=1 --colour",
        "train run/demo_world --nproc two",
        "data build videos seed=1 --out m.parquet",
        "data bulid videos --out m.parquet",
        "explain seed train",
        "sample run",
        "trian run/demo_world",
        "",
    ],
)
def test_what_is_no_option_is_refused(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(line.split())
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: cosmos-train") and ": error: " in err.splitlines()[-1]


def test_train_starts_a_worker_for_each_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # where nobody has trained this run
    seen = {}
    monkeypatch.setattr(spawn, "run_ranks", lambda command, n, **more: seen.update(command=command, n=n, **more) or 75)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["train", WORLD, "seed=3", "--nproc", "2", "train.threads_per_rank=5", "--debug"]) == 75
    overrides = ["seed=3", "train.threads_per_rank=5"]
    assert seen["command"] == [sys.executable, "-m", "cosmos_launch.jobs.worker", WORLD, *overrides, "--debug"]
    assert (seen["n"], seen["threads_per_rank"]) == (2, 5)


def test_train_is_the_worker_where_torchrun_started_it(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(worker, "main", lambda arguments, stop: seen.extend(arguments) or 75)
    for name, value in SECOND_OF_TWO.items():
        monkeypatch.setenv(name, value)
    assert main(["train", WORLD, "seed=3", "--debug"]) == 75
    assert seen == [WORLD, "seed=3", "--debug"]


def test_a_command_passes_what_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`sample` and `evaluate` have more options than others; the rest is checked where it is used."""
    from cosmos_launch.cli import evaluate, sample  # they bring torch, which help should not wait for here either

    seen = {}
    monkeypatch.setattr(sample, "sample", lambda *given, **named: seen.update(given=given, **named) or 0)
    line = "sample RUN sample.rho=3 --out O --input I --crop --seed 4 --num-videos 2 --num-frames 9 --fps 12.5"
    assert main([*line.split(), "sample.guidance=0", "--prompt", "two words"]) == 0
    run, overrides, request = seen["given"]
    assert (run, overrides, seen["out"]) == (Path("RUN"), ["sample.rho=3", "sample.guidance=0"], Path("O"))
    assert (request.prompt, request.input_path, request.crop_input) == ("two words", Path("I"), True)
    assert (request.seed, request.num_videos, request.num_frames, request.fps) == (4, 2, 9, 12.5)
    seen.clear()
    monkeypatch.setattr(evaluate, "evaluate_world", lambda path, overrides, **more: seen.update(more) or 0)
    assert main(["evaluate", "world", "RUN", "--out", "O.json", "--max-windows", "3"]) == 0
    assert seen == {"out": Path("O.json"), "max_windows": 3, "config": None, "fps": None, "windows_of": None}


@pytest.mark.parametrize("line", [["train", WORLD], ["sample", "RUN", "--out", "O"]], ids=["train", "sample"])
def test_ranks_that_contradict_the_command_line_are_named_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str]
):
    for name, value in (SECOND_OF_TWO | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    for num_ranks in ("1", "3"):
        assert main([*line, "--nproc", num_ranks]) == 2
        assert f"--nproc {num_ranks}, but RANK=0 and WORLD_SIZE=2 make this process" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main([*line, "--nproc", "2"]) == 2
    assert "--nproc 2, but RANK=0 and WORLD_SIZE=1 make this process rank 0 of 1" in capsys.readouterr().err


def test_a_run_is_checked_for_the_ranks_that_torchrun_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in SECOND_OF_TWO.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(worker, "main", lambda arguments, stop: 75)
    assert main(["train", WORLD, "parallel.tp=2"]) == 75
    assert main(["train", WORLD, "parallel.tp=4"]) == 2
    assert "does not divide the 2 processes" in capsys.readouterr().err
    assert main(["train", WORLD, "--nproc", "4", "parallel.tp=4", "--check"]) == 0, "no ranks are started"


def test_copies_that_srun_started_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in SECOND_OF_TWO:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert main(["train", WORLD]) == 2
    assert "srun started 8 tasks" in capsys.readouterr().err


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_text_is_utf8_where_there_is_no_locale(tmp_path: Path, locale: str):
    """With both of Python's own remedies off, as on some clusters: arguments would be read as ASCII."""
    environment = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "日本.yaml").write_text(to_yaml(load_run(WORLD, ["run_dir=学習"])), encoding="utf-8")
    done = command(
        "train", "日本.yaml", "--check", "optim.lr=schnell ü", env=environment, cwd=tmp_path, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (2, "cosmos-train: 日本.yaml: optim.lr=schnell ü is not a number\n")
    done = command("train", "日本.yaml", "--check", env=environment, cwd=tmp_path, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "日本.yaml: a valid world_dit run for 1 rank\n")


def test_sample_starts_itself_for_each_rank(monkeypatch: pytest.MonkeyPatch):
    """A process that torchrun started is a rank, and starts no others."""
    from cosmos_launch.cli import sample

    seen: list = []
    monkeypatch.setattr(spawn, "run_ranks", lambda command, n: seen.append((command, n)) or 0)
    monkeypatch.setattr(sample, "sample", lambda *given, **named: seen.append("this process") or 0)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    line = ["sample", "RUN", "parallel.tp=2", "--out", "O", "--prompt", "two words", "--nproc", "2"]
    assert main(line) == 0
    assert seen.pop() == ([sys.executable, "-m", "cosmos_launch.cli", *line], 2)
    for name, value in SECOND_OF_TWO.items():
        monkeypatch.setenv(name, value)
    assert main(line) == 0
    assert seen == ["this process"]


def test_packing_upscales_on_request(work: Path, capsys: pytest.CaptureFixture[str]):
    size = "--height-px 160 --width-px 192"
    assert main(f"data pack m.parquet --out packed {size} --allow-upscale".split()) == 0
    assert "6 clips, 192x160 mjpeg -> packed/manifest.arrow" in capsys.readouterr().out


# What can be wrong.


WRONG = {
    "unknown key": (f"train {WORLD} modle.num_blocks=3", 2, "unknown key modle; the nearest: model, "),
    "wrong type": (f"train {WORLD} train.num_steps=abc", 2, "train.num_steps=abc is not a whole number"),
    "malformed override": (f"train {WORLD} train.num_steps", 2, "override 'train.num_steps' is not of the form "),
    "unknown run": ("train run/demo_wrold", 2, "there is no file run/demo_wrold.yaml, and none of that name in "),
    "degrees": (
        f"train {WORLD} parallel.tp=2 --nproc 3",
        2,
        "parallel.tp=2 * parallel.pp=1 * parallel.cp=1 = 2 does not divide the 3 ",
    ),
    "batch": (f"train {WORLD} --nproc 3", 2, "train.global_batch_size=8 is not a multiple of train.micro_batch_size"),
    "no process": (f"train {WORLD} --nproc 0", 2, "--nproc 0 must be at least 1"),
    "no folder": (
        "data build nowhere --out new",
        2,
        "nowhere can not be read (No such file or directory); give a folder,",
    ),
    "a folder as manifest": ("data build videos --out empty", 2, "--out empty is a folder; name the manifest to write"),
    "clips of nothing": ("data build videos --out new --clip-frames -1", 2, "clip_frames=-1 is not a positive count"),
    "no size": ("data pack m.parquet --out new", 2, "codec=mjpeg needs height_px and width_px, the size of the clips"),
    "no manifest": ("data pack none --out new --height-px 64 --width-px 64", 2, "no manifest at "),
    "a video as manifest": (
        "data pack videos/carphone.mp4 --out new --height-px 64 --width-px 64",
        2,
        "is not a Parquet file",
    ),
    "smaller than the crop": (
        "data pack m.parquet --out new --height-px 288 --width-px 352",
        2,
        "clip carphone.mp4@0 is 192x144 px, smaller than 352x288; use a smaller size, or allow upscaling (",
    ),
    "packed already": ("data pack m.parquet --out empty --height-px 64 --width-px 64", 2, "empty exists already; "),
    "a tokenizer's run": (
        f"tokenize {TOKENIZER}",
        2,
        f"{TOKENIZER} is a tokenizer run; tokenize takes a world model's",
    ),
    "no tokenizer": (
        f"tokenize {WORLD} data.manifest=m.parquet latents.tokenizer=none latents.folder=new",
        2,
        "none/config.json cannot be read: [Errno 2] No such file or directory: 'none/config.json'; name the folder of ",
    ),
    "no manifest to tokenize": (
        f"tokenize {WORLD} data.manifest=none latents.folder=new",
        2,
        "build one from a folder of videos, or correct data.manifest",
    ),
    "no run": ("sample no_run --out new", 1, "no_run is neither a complete checkpoint (it has no complete.json) nor "),
    "no run to evaluate": ("evaluate world nowhere --out new", 1, "nowhere is neither a complete checkpoint (it has n"),
    "a tokenizer's checkpoint": ("sample tokenizer_run --out new", 2, "is of a tokenizer run; only world models can b"),
    "no videos to sample": ("sample no_run --out new --num-videos 0", 2, "--num-videos 0 must be at least 1"),
    "no time to sample": ("sample no_run --out new --fps 0", 2, "--fps 0.0 must be greater than 0"),
    "unknown key to explain": ("explain trian", 2, "there is no configuration key 'trian'; the nearest: train, "),
}


@pytest.mark.parametrize(("line", "code", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input(line: str, code: int, said: str, work: Path, capfd: pytest.CaptureFixture[str]):
    before = sorted(work.rglob("*"))
    assert main(line.split()) == code
    err = capfd.readouterr().err
    assert err.startswith("cosmos-train: ") and said in err
    assert err.count("\n") == 1, "one sentence"
    assert "Traceback" not in err
    assert sorted(work.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize("line", ["train run/demo_world modle.num_blocks=3", "data build nowhere --out new"])
def test_debug_shows_where_it_happened(line: str, work: Path, capfd: pytest.CaptureFixture[str]):
    assert main([*line.split(), "--debug"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("Traceback (most recent call last):") and "\ncosmos-train: " in err


@pytest.mark.parametrize(
    ("line", "said", "listed"),
    [
        ("data build empty --out new", "empty holds no video; left out:", "1: a text that belongs to no video ("),
        ("data build cut --out new --max-bad-share 1", "cut gives no clip of 1 videos, so new is not written:", "torn"),
    ],
)
def test_a_source_without_clips_is_told_by_what_is_in_it(
    work: Path, capfd: pytest.CaptureFixture[str], line: str, said: str, listed: str
):
    assert main(line.split()) == 2
    first, *others = capfd.readouterr().err.splitlines()
    assert first.startswith("cosmos-train: ") and first.endswith(said)
    assert len(others) == 1 and listed in others[0]
    assert not (work / "new").exists()


def test_videos_that_are_all_bad_are_listed(work: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["data", "build", "cut", "--out", "new"]) == 2
    first, *listed = capfd.readouterr().err.splitlines()
    assert first.startswith("cosmos-train: 1 of 1 videos in ")
    assert first.endswith("give no clip, more than max_bad_share=0.05; repair or remove them, or raise max_bad_share:")
    assert len(listed) == 1 and "torn.mp4: it cannot be decoded after frame " in listed[0]
    assert not (work / "new").exists()


def test_a_crop_larger_than_the_clips_ends_training_before_it_begins(work: Path):
    """In the processes that a person would start: the rank's sentence stands last, and its code comes back."""
    line = f"train {TOKENIZER} data.manifest=m.parquet data.height_px=288 data.width_px=352 run_dir=new"
    result = command(*line.split())
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "cosmos-train: clip carphone.mp4@0 is 192x144 px, smaller than the 352x288 of its windows (data.width_px, "
        "data.height_px, data.buckets); use a smaller size or data.resize=pad, or pack the manifest with upscaling "
        "allowed"
    )
    assert "Traceback" not in result.stderr
    assert not (work / "new" / "checkpoints").exists() and not (work / "new" / "tokenizer").exists()


def test_what_megatron_says_of_itself_is_not_shown(work: Path):
    """It warns four times, when it is imported, that TransformerEngine is not there."""
    result = command("sample", "no_run", "--out", "new")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("cosmos-train: no_run is neither ") and result.stderr.count("\n") == 1


def test_a_defect_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(explain, "explain", lambda name: 1 // 0)
    assert main(["explain"]) == 1
    err = capfd.readouterr().err
    assert err.startswith("Traceback") and "\ncosmos-train: ZeroDivisionError: " in err
