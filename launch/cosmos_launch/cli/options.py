"""What may follow each command of `cosmos-train` but `data`; `commands.py` says which function gets it.

The `dest` of each is the name of that function's parameter.
"""

import argparse
from pathlib import Path

OVERRIDES_HELP = "section.key=value: overrides of the YAML; `cosmos-train explain` lists the keys"

DESCRIBES = (
    "of a file of no run of ours, such as NVIDIA's model.pt: the YAML of a run that says what it was trained with "
    "(data, latents.tokenizer, text, condition)"
)
"""This says what `--config` is for, in the help of commands that take such files."""


def train(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train train`."""
    parser.add_argument(
        "run_name", metavar="run", help="a YAML file, or the name of one under configs/ such as run/demo_world"
    )
    parser.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    parser.add_argument("--nproc", type=int, help="processes on this machine (ranks); 1, or what torchrun says")
    parser.add_argument("--cluster", help="--check, --dry-run: for this cluster (a file, or a name under configs/)")
    parser.add_argument("--check", action="store_true", help="validate the run for --nproc ranks and leave")
    parser.add_argument("--dry-run", action="store_true", help="say what each kind of rank would hold, and leave")
    parser.add_argument("--world-size", type=int, help="--dry-run: so many ranks, on any number of machines")
    parser.add_argument(
        "--json", dest="as_json", action="store_true", help="--dry-run: one JSON object instead of a table"
    )


def submit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train submit`."""
    parser.add_argument(
        "run_names", metavar="runs", nargs="+", help="YAML files, or names under configs/; several become one job array"
    )
    parser.add_argument(
        "overrides", nargs="*", help=f"{OVERRIDES_HELP}; every run's; cluster.key=value: the cluster file's"
    )
    parser.add_argument(
        "--cluster",
        dest="cluster_name",
        metavar="CLUSTER",
        required=True,
        help="the cluster's YAML file, or its name under configs/cluster/",
    )
    parser.add_argument("--nodes", default="1", help="N nodes, or N-M: at least N, and as many up to M as there are")
    parser.add_argument("--after", action="append", default=[], metavar="JOB", help="start after this job is done")
    parser.add_argument(
        "--each", metavar="KEY=A,B,...", help="an array: the run with each value of a key, each in its own folder"
    )
    parser.add_argument(
        "--chain", action="store_true", help="one run after the other, each from the weights of the one before"
    )
    tokenize = parser.add_mutually_exclusive_group()
    tokenize.add_argument(
        "--tokenize",
        dest="stages",
        action="store_const",
        const=("tokenize", "train"),
        help="first a job that makes the runs' latent caches, on as many nodes; training waits for it",
    )
    tokenize.add_argument(
        "--tokenize-only",
        dest="stages",
        action="store_const",
        const=("tokenize",),
        help="that job alone; `submit --after JOB` then trains, also on another number of nodes",
    )
    parser.set_defaults(stages=("train",))
    parser.add_argument("--dry-run", action="store_true", help="print the batch scripts and leave")


def status(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train status`."""
    parser.add_argument("run_dir", metavar="run", type=Path, help="the run's folder")
    parser.add_argument("--json", dest="as_json", action="store_true", help="one JSON object instead of lines")


def report(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train report`."""
    parser.add_argument(
        "run_dirs",
        metavar="run",
        nargs="+",
        type=Path,
        help="a run's folder, which alone is read; further ones add their curves",
    )
    parser.add_argument("--out", type=Path, help="HTML file to write; report.html in the first folder by default")


def checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train checkpoint`."""
    parser.add_argument("action", choices=("ls", "verify", "prune", "diff"))
    parser.add_argument("paths", type=Path, nargs="+", help="a run's folder or a checkpoint; diff: two of them")
    parser.add_argument("--keep-last", type=int, help="prune: keep so many of the newest")
    parser.add_argument("--keep-every", type=int, default=0, help="prune: and those of every so many steps")
    parser.add_argument("--keep-best", type=int, default=0, help="prune: and so many with the best scores")
    parser.add_argument("--best-is", choices=("lowest", "highest"), default="lowest", help="prune: of scores")


def tokenize(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train tokenize`."""
    parser.add_argument("source", help="a world model's YAML; with --tokenizer a folder of videos, or a manifest")
    parser.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer that encodes SOURCE into --out")
    parser.add_argument(
        "--nproc",
        type=int,
        help="processes on this machine that share the windows; 1, or what torchrun says",
    )
    parser.add_argument("--text", action="store_true", help="only the captions, into the run's text.cache")
    parser.add_argument(
        "--samples", type=int, help="latents.fill=true: of the run's first samples; an epoch by default, each clip once"
    )
    parser.add_argument("--out", type=Path, help="--tokenizer: folder for a file of latents, or a video, per clip")
    parser.add_argument("--decode", action="store_true", help="--tokenizer: SOURCE is latents; make videos of them")
    parser.add_argument("--padding", choices=("edge", "black", "official"), help="pad what the tokenizer cannot take")
    parser.add_argument("--short-side-px", type=int, help="shrink larger pictures to this shorter side")
    parser.add_argument("--fps", type=float, default=24.0, help="frames per second of folders of pictures")


def sample(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train sample`."""
    parser.add_argument(
        "path", metavar="run", type=Path, help="the run's folder, one of its checkpoints, or with --config another file"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="sample.key=value, parallel.key=value: how and on what layout; sample=sample/released_2ab takes a file's; "
        "with --config any key",
    )
    parser.add_argument("--config", help=DESCRIBES)
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.mp4 and NAME.json")
    parser.add_argument("--prompt", default="", help="what the video shows")
    parser.add_argument(
        "--input",
        dest="input_path",
        metavar="INPUT",
        type=Path,
        help="Video2World: a video or image whose first frames are the condition",
    )
    parser.add_argument(
        "--crop", dest="crop_input", action="store_true", help="cut the middle out of an --input of another size"
    )
    parser.add_argument(
        "--camera",
        dest="cameras",
        action="append",
        default=[],
        help="a model steered by a camera: still, pan:DEGREES, dolly:DISTANCE, orbit:DEGREES, PATH.json or "
        "MANIFEST#CLIP; given again, another future of the same state",
    )
    parser.add_argument(
        "--actions",
        action="append",
        default=[],
        help="a model steered by actions: a .parquet, .csv, .npy or .json file, keys:wwaadd or MANIFEST#CLIP; given "
        "again, another future of the same state",
    )
    parser.add_argument(
        "--keys",
        dest="keys_path",
        metavar="TABLE",
        type=Path,
        help="YAML that says what each key of keys:... stands for",
    )
    parser.add_argument("--embodiment", help="whose actions they are, of a model that knows several")
    parser.add_argument("--draw-conditions", action="store_true", help="draw camera path and actions onto the videos")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first video")
    parser.add_argument("--num-videos", type=int, default=1, help="futures of seed, seed + 1, ... and a grid of them")
    parser.add_argument("--num-frames", type=int, help="length; past the model's, windows go on from each other")
    parser.add_argument("--fps", type=float, help="frames per second; the training data's by default")
    _add_adapters(parser)
    parser.add_argument("--nproc", type=int, help="processes on this machine (ranks); 1, or what torchrun says")


def evaluate_world(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train evaluate world`."""
    parser.add_argument(
        "path", metavar="run", type=Path, help="the run's folder, one of its checkpoints, or with --config another file"
    )
    parser.add_argument("--config", help=DESCRIBES)
    parser.add_argument("--fps", type=float, help="with --config: frames per second that the file was trained at")
    parser.add_argument("overrides", nargs="*", help="sample.key=value: overrides of how the model is sampled")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--max-windows", type=int, default=32, help="held-out windows to predict")
    parser.add_argument(
        "--windows-of",
        type=Path,
        metavar="RUN",
        help="another run, whose held-out windows are predicted: a model before and after a post-training",
    )


def evaluate_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train evaluate tokenizer`."""
    parser.add_argument("folder", metavar="tokenizer", type=Path, help="folder of the tokenizer")
    parser.add_argument("videos", type=Path, help="a manifest, or a folder of videos or of folders of pictures")
    parser.add_argument("overrides", nargs="*", help="key=value: overrides of the protocol")
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.json and report.html")
    parser.add_argument("--protocol", help="a YAML file, or the name of one under configs/ such as evaluate/davis")
    parser.add_argument("--fvd-network", type=Path, help="TorchScript file of a feature network; adds rFVD")


def ema(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train ema`."""
    parser.add_argument("run_dir", metavar="run", type=Path, help="the run's folder, of optim.ema_sigma_rels")
    parser.add_argument("--sigma-rel", type=float, required=True, help="relative width, e.g. 0.08")
    parser.add_argument("--step", type=int, help="as after this step; the last snapshot's by default")
    parser.add_argument("--out", type=Path, required=True, help="folder to make: a checkpoint with weights alone")


def _add_adapters(parser: argparse.ArgumentParser) -> None:
    """Add the options that add adapters to a world model."""
    parser.add_argument(
        "--adapter",
        dest="adapters",
        action="append",
        default=[],
        metavar="FILE[=STRENGTH]",
        help="add LoRA adapters of any layout to the model; given again, several at once",
    )
    parser.add_argument("--alpha", type=float, help="alpha of --adapter files that do not say it")


def convert(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train convert`."""
    parser.add_argument("source", type=Path, help="a checkpoint file, a run, or a folder of any of the layouts")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    layouts = ("ours", "official", "training", "diffusers", "transformers", "peft", "kohya")
    parser.add_argument("--to", choices=layouts, default="ours", help="layout; peft and kohya are of adapters")
    _add_adapters(parser)
    parser.add_argument(
        "--only-adapters",
        action="store_true",
        help="write the adapters of a run, or of the --adapter file, by themselves: diffusers, peft, official, kohya",
    )
    parser.add_argument("--arguments", type=Path, help="JSON of the official constructor's arguments")
    parser.add_argument(
        "--weights", choices=("network", "ema"), default="network", help="which of a training checkpoint"
    )
    parser.add_argument(
        "--statistics",
        choices=("bf16", "fp32"),
        default="bf16",
        help="what an official tokenizer's latent statistics are rounded to; the official code takes bf16",
    )
    parser.add_argument("--tokenizer", type=Path, help="becomes the vae of a world model's diffusers folder")
    parser.add_argument("--tp", type=int, default=1, help="shards of an autoregressive model's official checkpoint")


def doctor(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train doctor`."""
    parser.add_argument("--json", dest="as_json", action="store_true", help="one JSON array instead of a table")


def explain(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train explain`."""
    parser.add_argument(
        "name", metavar="key", nargs="?", default="", help="such as train.num_steps; a section, or nothing, lists keys"
    )
