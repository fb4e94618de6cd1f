"""The `cosmos-train` command. Nothing heavy is imported before a command needs it, so that --help is instant.

Exit codes: 0 done, 1 failed, 2 the user's input is wrong, 75 stopped and saved, to be started again.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

OVERRIDES_HELP = "section.key=value: overrides of the YAML; `cosmos-train explain` lists the keys"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if "overrides" in arguments and all("=" in word and not word.startswith("-") for word in rest):
        arguments.overrides += rest  # argparse ends a list of positionals at the first option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # megatron-core says so four times when it is imported; `cosmos-train doctor` says it once.
    warnings.filterwarnings("ignore", "Transformer Engine and Apex are not installed")
    try:
        return arguments.command(arguments)
    except Exception as error:  # every command's errors become one sentence here
        from cosmos_launch.failure import report_failure

        return report_failure(error, debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cosmos-train", description="Train world foundation models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(command=function)
        return command

    data = add("data", _data, "make a manifest of a folder of videos, or re-encode its clips for random access")
    data.add_argument("action", choices=("build", "pack"))
    data.add_argument("source", type=Path, help="build: the folder of videos; pack: the manifest")
    data.add_argument("--out", type=Path, required=True, help="build: the manifest to write; pack: the folder to make")
    data.add_argument("--clip-frames", type=int, default=48, help="build: cut videos into clips of so many frames")
    data.add_argument("--heldout-every", type=int, default=5, help="build: every n-th clip is held out")
    data.add_argument("--max-clips", type=int, help="build: keep so many clips at most, evenly spread")
    data.add_argument("--max-bad-share", type=float, default=0.05, help="build: share of bad videos that is an error")
    data.add_argument("--height-px", type=int, help="pack: height of the packed clips")
    data.add_argument("--width-px", type=int, help="pack: width of the packed clips")
    data.add_argument("--codec", choices=("mjpeg", "vp9", "h264"), default="mjpeg", help="pack: codec of the clips")
    data.add_argument("--allow-upscale", action="store_true", help="pack: enlarge clips that are smaller")

    train = add("train", _train, "train, or go on training, the run that a YAML file describes")
    train.add_argument("run", help="a YAML file, or the name of one under configs/ such as run/demo_world")
    train.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    train.add_argument("--nproc", type=int, default=1, help="processes on this machine (ranks)")
    train.add_argument("--check", action="store_true", help="validate the run for --nproc ranks and leave")
    train.add_argument("--dry-run", action="store_true", help="say what each kind of rank would hold, and leave")
    train.add_argument("--world-size", type=int, help="--dry-run: so many ranks, on any number of machines")
    train.add_argument("--json", action="store_true", help="--dry-run: one JSON object instead of a table")

    tokenize = add("tokenize", _tokenize, "encode the clips of a world model's run into its latent cache")
    tokenize.add_argument("run", help="the world model's YAML")
    tokenize.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)

    sample = add("sample", _sample, "generate videos with a trained world model")
    sample.add_argument("run", type=Path, help="the run's folder, or one of its checkpoints")
    sample.add_argument("overrides", nargs="*", help="sample.key=value: overrides of how the model is sampled")
    sample.add_argument("--out", type=Path, required=True, help="folder for NAME.mp4 and NAME.json")
    sample.add_argument("--prompt", default="", help="what the video shows")
    sample.add_argument("--input", type=Path, help="Video2World: a video or image whose first frames are the condition")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first video")
    sample.add_argument("--num-videos", type=int, default=1, help="videos of seed, seed + 1, ...")
    sample.add_argument("--fps", type=float, help="frames per second; the training data's by default")

    evaluate = add("evaluate", _evaluate, "compare a world model with repeating the last frame, on held-out windows")
    evaluate.add_argument("run", type=Path, help="the run's folder, or one of its checkpoints")
    evaluate.add_argument("overrides", nargs="*", help="sample.key=value: overrides of how the model is sampled")
    evaluate.add_argument("--out", type=Path, required=True, help="JSON file to write")
    evaluate.add_argument("--max-windows", type=int, default=32, help="held-out windows to predict")

    convert = add(
        "convert", _convert, "turn a tokenizer of another project into ours, or ours into theirs, and prove it"
    )
    convert.add_argument("source", type=Path, help="a checkpoint file, or a folder of ours, NVIDIA's or diffusers'")
    convert.add_argument("--out", type=Path, required=True, help="folder to make")
    convert.add_argument("--to", choices=("ours", "official", "training", "diffusers"), default="ours", help="layout")
    convert.add_argument("--arguments", type=Path, help="JSON of the official constructor's arguments")
    convert.add_argument(
        "--weights", choices=("network", "ema"), default="network", help="which of a training checkpoint"
    )

    doctor = add("doctor", _doctor, "what this machine has, what is missing and what that costs")
    doctor.add_argument("--json", action="store_true", help="one JSON array instead of a table")

    explain = add("explain", _explain, "what a configuration key means, its type, its default, who reads it")
    explain.add_argument(
        "key", nargs="?", default="", help="such as train.num_steps; a section, or nothing, lists keys"
    )
    return parser


def _data(arguments: argparse.Namespace) -> int:
    from cosmos_launch.data import build, pack

    if arguments.action == "build":
        return build(
            arguments.source,
            arguments.out,
            clip_frames=arguments.clip_frames,
            heldout_every=arguments.heldout_every,
            max_bad_share=arguments.max_bad_share,
            max_clips=arguments.max_clips,
        )
    if arguments.height_px is None or arguments.width_px is None:
        from cosmos_train.config.errors import ConfigError

        raise ConfigError("data pack needs --height-px and --width-px, the size of the packed clips")
    return pack(
        arguments.source,
        arguments.out,
        height_px=arguments.height_px,
        width_px=arguments.width_px,
        codec=arguments.codec,
        allow_upscale=arguments.allow_upscale,
    )


def _train(arguments: argparse.Namespace) -> int:
    from cosmos_launch.spawn import is_worker, run_ranks
    from cosmos_train.config.errors import ConfigError
    from cosmos_train.config.load import load_run
    from cosmos_train.config.validate import check_run

    if not arguments.dry_run and (arguments.world_size is not None or arguments.json):
        raise ConfigError("--world-size and --json belong to --dry-run; add it, or start ranks here with --nproc")
    run = load_run(arguments.run, arguments.overrides)
    if arguments.dry_run:
        world_size = arguments.nproc if arguments.world_size is None else arguments.world_size
        if world_size < 1:
            raise ConfigError(f"--world-size {world_size} must be at least 1")
        check_run(run, world_size)  # before torch is imported
        from cosmos_launch.plan import dry_run

        return dry_run(run, world_size, as_json=arguments.json)
    check_run(run, arguments.nproc)
    if arguments.check:
        print(f"{arguments.run}: a valid {run.recipe} run for {arguments.nproc} rank{'s' * (arguments.nproc > 1)}")
        return 0
    debug = ["--debug"] if arguments.debug else []
    if is_worker():
        from cosmos_launch.worker import main as work

        return work([arguments.run, *arguments.overrides, *debug])
    command = [sys.executable, "-m", "cosmos_launch.worker", arguments.run, *arguments.overrides, *debug]
    return run_ranks(command, arguments.nproc, threads_per_rank=run.train.threads_per_rank)


def _tokenize(arguments: argparse.Namespace) -> int:
    from cosmos_train.config.errors import ConfigError
    from cosmos_train.config.load import load_run
    from cosmos_train.config.schema import WorldDiTRun

    run = load_run(arguments.run, arguments.overrides)
    if not isinstance(run, WorldDiTRun):
        raise ConfigError(f"{arguments.run} is a {run.recipe} run; tokenize takes a world model's, which names a cache")
    from cosmos_launch.encode import encode_clips

    return encode_clips(run)


def _sample(arguments: argparse.Namespace) -> int:
    from cosmos_launch.sample import sample

    return sample(
        arguments.run,
        arguments.overrides,
        out=arguments.out,
        prompt=arguments.prompt,
        input_path=arguments.input,
        seed=arguments.seed,
        num_videos=arguments.num_videos,
        fps=arguments.fps,
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from cosmos_launch.evaluate import evaluate

    return evaluate(arguments.run, arguments.overrides, out=arguments.out, max_windows=arguments.max_windows)


def _convert(arguments: argparse.Namespace) -> int:
    from cosmos_launch.convert import convert

    return convert(
        arguments.source, arguments.out, to=arguments.to, arguments=arguments.arguments, weights=arguments.weights
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from cosmos_launch.doctor import main as doctor

    return doctor(json=arguments.json)


def _explain(arguments: argparse.Namespace) -> int:
    from cosmos_launch.explain import explain

    return explain(arguments.key)


if __name__ == "__main__":
    sys.exit(main())
