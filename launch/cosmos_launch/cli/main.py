"""The `cosmos-train` command. Nothing heavy is imported before a command needs it, so that --help is instant.

Exit codes: 0 done, 1 failed, 2 the user's input is wrong, 75 stopped and saved, to be started again, 130 left at once.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from cosmos_launch.cli.data_arguments import add_data_commands
from cosmos_launch.jobs.text_encoding import read_text_as_utf8

OVERRIDES_HELP = "section.key=value: overrides of the YAML; `cosmos-train explain` lists the keys"


Commands = argparse._SubParsersAction
"""What argparse's add_subparsers gives; it has no public name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:
        read_text_as_utf8()
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.argv = sys.argv[1:] if argv is None else argv
    arguments.is_whole_process = argv is None
    if "overrides" in arguments and all("=" in word and not word.startswith("-") for word in rest):
        arguments.overrides += rest  # argparse ends a list of positionals at the first option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # megatron-core says so four times when it is imported; `cosmos-train doctor` says it once.
    warnings.filterwarnings("ignore", "Transformer Engine and Apex are not installed")
    try:
        return arguments.command(arguments)
    except Exception as error:  # every command's errors become one sentence here
        from cosmos_launch.jobs.failure import report_failure
        from cosmos_train.config.environment import rank_for_messages

        return report_failure(error, rank=rank_for_messages(), debug=arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cosmos-train", description="Train world foundation models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data_commands(commands.add_parser("data", help="make, check, pack and describe manifests of videos"))
    _add_train(commands)
    _add_submit(commands)
    _add_run_folders(commands)
    _add_tokenize(commands)
    _add_sample(commands)
    _add_evaluate(commands)
    _add_models(commands)
    _add_help(commands)
    return parser


def _add(
    commands: Commands, name: str, function: Callable[[argparse.Namespace], int], help: str
) -> argparse.ArgumentParser:
    """A command that the caller gives its options."""
    command = commands.add_parser(name, help=help, description=help)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(command=function)
    return command


def _add_train(commands: Commands) -> None:
    train = _add(commands, "train", _train, "train, or go on training, the run that a YAML file describes")
    train.add_argument("run", help="a YAML file, or the name of one under configs/ such as run/demo_world")
    train.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    train.add_argument("--nproc", type=int, help="processes on this machine (ranks); 1, or what torchrun says")
    train.add_argument("--cluster", help="--check, --dry-run: for this cluster (a file, or a name under configs/)")
    train.add_argument("--check", action="store_true", help="validate the run for --nproc ranks and leave")
    train.add_argument("--dry-run", action="store_true", help="say what each kind of rank would hold, and leave")
    train.add_argument("--world-size", type=int, help="--dry-run: so many ranks, on any number of machines")
    train.add_argument("--json", action="store_true", help="--dry-run: one JSON object instead of a table")


def _add_submit(commands: Commands) -> None:
    submit = _add(
        commands, "submit", _submit, "queue runs with Slurm: checked, with a copy of the code, each until it is done"
    )
    submit.add_argument("runs", nargs="+", help="YAML files, or names under configs/; several become one job array")
    submit.add_argument(
        "overrides", nargs="*", help=f"{OVERRIDES_HELP}; every run's; cluster.key=value: the cluster file's"
    )
    submit.add_argument("--cluster", required=True, help="the cluster's YAML file, or its name under configs/cluster/")
    submit.add_argument("--nodes", default="1", help="N nodes, or N-M: at least N, and as many up to M as there are")
    submit.add_argument("--after", action="append", default=[], metavar="JOB", help="start after this job is done")
    submit.add_argument(
        "--each", metavar="KEY=A,B,...", help="an array: the run with each value of a key, each in its own folder"
    )
    submit.add_argument(
        "--chain", action="store_true", help="one run after the other, each from the weights of the one before"
    )
    tokenize = submit.add_mutually_exclusive_group()
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
    submit.set_defaults(stages=("train",))
    submit.add_argument("--dry-run", action="store_true", help="print the batch scripts and leave")


def _add_run_folders(commands: Commands) -> None:
    status = _add(
        commands, "status", _status, "how far a run is, how fast, what became of it: read from its folder alone"
    )
    status.add_argument("run", type=Path, help="the run's folder")
    status.add_argument("--json", action="store_true", help="one JSON object instead of lines")

    report = _add(
        commands, "report", _report, "a page about a run: curves over all restarts, speed, memory, ranks, what happened"
    )
    report.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, which alone is read; more add their curves"
    )
    report.add_argument("--out", type=Path, help="HTML file to write; report.html in the first folder by default")

    checkpoint = _add(commands, "checkpoint", _checkpoint, "list, verify, remove or compare a run's checkpoints")
    checkpoint.add_argument("action", choices=("ls", "verify", "prune", "diff"))
    checkpoint.add_argument("paths", type=Path, nargs="+", help="a run's folder or a checkpoint; diff: two of them")
    checkpoint.add_argument("--keep-last", type=int, help="prune: keep so many of the newest")
    checkpoint.add_argument("--keep-every", type=int, default=0, help="prune: and those of every so many steps")
    checkpoint.add_argument("--keep-best", type=int, default=0, help="prune: and so many with the best scores")
    checkpoint.add_argument("--best-is", choices=("lowest", "highest"), default="lowest", help="prune: of scores")


def _add_tokenize(commands: Commands) -> None:
    tokenize = _add(
        commands, "tokenize", _tokenize, "encode a world model's clips into its latent cache, or any videos, and back"
    )
    tokenize.add_argument("source", help="a world model's YAML; with --tokenizer a folder of videos, or a manifest")
    tokenize.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    tokenize.add_argument("--tokenizer", type=Path, help="folder of the tokenizer that encodes SOURCE into --out")
    tokenize.add_argument(
        "--nproc",
        type=int,
        help="processes on this machine that share the windows; 1, or what torchrun says",
    )
    tokenize.add_argument("--text", action="store_true", help="only the captions, into the run's text.cache")
    tokenize.add_argument(
        "--samples", type=int, help="latents.fill=true: of the run's first samples; an epoch by default, each clip once"
    )
    tokenize.add_argument("--out", type=Path, help="--tokenizer: folder for a file of latents, or a video, per clip")
    tokenize.add_argument("--decode", action="store_true", help="--tokenizer: SOURCE is latents; make videos of them")
    tokenize.add_argument("--padding", choices=("edge", "black", "official"), help="pad what the tokenizer cannot take")
    tokenize.add_argument("--short-side-px", type=int, help="shrink larger pictures to this shorter side")
    tokenize.add_argument("--fps", type=float, default=24.0, help="frames per second of folders of pictures")


def _add_sample(commands: Commands) -> None:
    sample = _add(commands, "sample", _sample, "generate videos with a trained world model")
    sample.add_argument("run", type=Path, help="the run's folder, or one of its checkpoints")
    sample.add_argument(
        "overrides",
        nargs="*",
        help="sample.key=value, parallel.key=value: how and on what layout; sample=sample/released_2ab takes a file's",
    )
    sample.add_argument("--out", type=Path, required=True, help="folder for NAME.mp4 and NAME.json")
    sample.add_argument("--prompt", default="", help="what the video shows")
    sample.add_argument("--input", type=Path, help="Video2World: a video or image whose first frames are the condition")
    sample.add_argument("--crop", action="store_true", help="cut the middle out of an --input of another size")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first video")
    sample.add_argument("--num-videos", type=int, default=1, help="futures of seed, seed + 1, ... and a grid of them")
    sample.add_argument("--num-frames", type=int, help="length; past the model's, windows go on from each other")
    sample.add_argument("--fps", type=float, help="frames per second; the training data's by default")
    sample.add_argument("--nproc", type=int, help="processes on this machine (ranks); 1, or what torchrun says")


def _add_evaluate(commands: Commands) -> None:
    how_good = "say how good a world model or a tokenizer is, on held-out clips"
    evaluate = commands.add_parser("evaluate", help=how_good, description=how_good)
    evaluated = evaluate.add_subparsers(required=True, metavar="WHAT")
    world = _add(evaluated, "world", _evaluate_world, "compare a world model with repeating the last frame")
    world.add_argument("run", type=Path, help="the run's folder, or one of its checkpoints")
    world.add_argument("overrides", nargs="*", help="sample.key=value: overrides of how the model is sampled")
    world.add_argument("--out", type=Path, required=True, help="JSON file to write")
    world.add_argument("--max-windows", type=int, default=32, help="held-out windows to predict")
    tokenizer = _add(evaluated, "tokenizer", _evaluate_tokenizer, "compare videos with their reconstructions")
    tokenizer.add_argument("tokenizer", type=Path, help="folder of the tokenizer")
    tokenizer.add_argument("videos", type=Path, help="a manifest, or a folder of videos or of folders of pictures")
    tokenizer.add_argument("overrides", nargs="*", help="key=value: overrides of the protocol")
    tokenizer.add_argument("--out", type=Path, required=True, help="folder for evaluation.json and report.html")
    tokenizer.add_argument("--protocol", help="a YAML file, or the name of one under configs/ such as evaluate/davis")
    tokenizer.add_argument("--fvd-network", type=Path, help="TorchScript file of a feature network; adds rFVD")


def _add_models(commands: Commands) -> None:
    ema = _add(
        commands, "ema", _ema, "make a moving average of another width out of a run's snapshots of power-law averages"
    )
    ema.add_argument("run", type=Path, help="the run's folder, of optim.ema_sigma_rels")
    ema.add_argument("--sigma-rel", type=float, required=True, help="relative width, e.g. 0.08")
    ema.add_argument("--step", type=int, help="as after this step; the last snapshot's by default")
    ema.add_argument("--out", type=Path, required=True, help="folder to make: a checkpoint with weights alone")

    convert = _add(
        commands, "convert", _convert, "turn another project's tokenizer or world model into ours, or ours into theirs"
    )
    convert.add_argument("source", type=Path, help="a checkpoint file, a run, or a folder of any of the layouts")
    convert.add_argument("--out", type=Path, required=True, help="folder to make")
    layouts = ("ours", "official", "training", "diffusers", "transformers")
    convert.add_argument("--to", choices=layouts, default="ours", help="layout")
    convert.add_argument("--arguments", type=Path, help="JSON of the official constructor's arguments")
    convert.add_argument(
        "--weights", choices=("network", "ema"), default="network", help="which of a training checkpoint"
    )
    convert.add_argument(
        "--statistics",
        choices=("bf16", "fp32"),
        default="bf16",
        help="what an official tokenizer's latent statistics are rounded to; the official code takes bf16",
    )
    convert.add_argument("--tokenizer", type=Path, help="becomes the vae of a world model's diffusers folder")
    convert.add_argument("--tp", type=int, default=1, help="shards of an autoregressive model's official checkpoint")


def _add_help(commands: Commands) -> None:
    doctor = _add(commands, "doctor", _doctor, "what this machine has, what is missing and what that costs")
    doctor.add_argument("--json", action="store_true", help="one JSON array instead of a table")

    explain = _add(commands, "explain", _explain, "what a configuration key means, its type, its default, who reads it")
    explain.add_argument(
        "key", nargs="?", default="", help="such as train.num_steps; a section, or nothing, lists keys"
    )


def _train(arguments: argparse.Namespace) -> int:
    from cosmos_train.config.environment import check_not_copied, own_ranks
    from cosmos_train.config.errors import ConfigError

    if not arguments.dry_run and (arguments.world_size is not None or arguments.json):
        raise ConfigError("--world-size and --json belong to --dry-run; add it, or start ranks here with --nproc")
    if arguments.check or arguments.dry_run:
        return _check_or_plan(arguments)
    if arguments.cluster is not None:
        raise ConfigError("--cluster belongs to --check and --dry-run; `cosmos-train submit` queues a run on a cluster")
    ranks, stop = own_ranks(arguments.nproc), None
    if arguments.is_whole_process:  # who calls main() has signals of its own
        from cosmos_launch.jobs.stopping import listen_as_launcher, listen_as_rank

        stop = listen_as_rank() if ranks.is_given else listen_as_launcher()

    from cosmos_launch.jobs.run_folder import check_run_folder
    from cosmos_launch.jobs.spawn import run_ranks
    from cosmos_train.config.load import load_run
    from cosmos_train.config.validate import check_run

    run = load_run(arguments.run, arguments.overrides)
    num_ranks = 1 if arguments.nproc is None else arguments.nproc
    check_run(run, ranks.world_size if ranks.is_given else num_ranks)
    debug = ["--debug"] if arguments.debug else []
    if ranks.is_given:
        from cosmos_launch.jobs.worker import main as work

        return work([arguments.run, *arguments.overrides, *debug], stop)
    if arguments.nproc is None:
        check_not_copied()
    check_run_folder(run)
    command = [sys.executable, "-m", "cosmos_launch.jobs.worker", arguments.run, *arguments.overrides, *debug]
    return run_ranks(command, num_ranks, threads_per_rank=run.train.threads_per_rank, stop=stop)


def _check_or_plan(arguments: argparse.Namespace) -> int:
    from cosmos_train.config.errors import ConfigError
    from cosmos_train.config.load import load_run, load_run_on_cluster
    from cosmos_train.config.validate import check_run

    if arguments.cluster is None:
        run = load_run(arguments.run, arguments.overrides)
    else:
        run, _ = load_run_on_cluster(arguments.run, arguments.cluster, arguments.overrides)
    num_ranks = 1 if arguments.nproc is None else arguments.nproc
    if arguments.check and not arguments.dry_run:
        check_run(run, num_ranks)
        print(f"{arguments.run}: a valid {run.recipe} run for {num_ranks} rank{'s' * (num_ranks > 1)}")
        return 0
    world_size = num_ranks if arguments.world_size is None else arguments.world_size
    if world_size < 1:
        raise ConfigError(f"--world-size {world_size} must be at least 1")
    check_run(run, world_size)  # before torch is imported
    from cosmos_launch.cli.dry_run import dry_run

    return dry_run(run, world_size, as_json=arguments.json)


def _submit(arguments: argparse.Namespace) -> int:
    from cosmos_launch.jobs.submit import submit

    overrides = [word for word in arguments.runs if "=" in word]  # argparse takes all words before an option for runs
    return submit(
        [word for word in arguments.runs if word not in overrides],
        [*overrides, *arguments.overrides],
        cluster_name=arguments.cluster,
        nodes=arguments.nodes,
        after=arguments.after,
        each=arguments.each,
        chain=arguments.chain,
        stages=arguments.stages,
        dry_run=arguments.dry_run,
    )


def _status(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.status import status

    return status(arguments.run, as_json=arguments.json)


def _report(arguments: argparse.Namespace) -> int:
    from cosmos_launch.pages.run_page import write_run_page

    return write_run_page(arguments.runs, out=arguments.out)


def _checkpoint(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli import checkpoints

    if arguments.action == "prune":
        return checkpoints.prune(
            arguments.paths,
            keep_last=arguments.keep_last,
            keep_every=arguments.keep_every,
            keep_best=arguments.keep_best,
            best_is=arguments.best_is,
        )
    return {"ls": checkpoints.ls, "verify": checkpoints.verify, "diff": checkpoints.diff}[arguments.action](
        arguments.paths
    )


def _tokenize(arguments: argparse.Namespace) -> int:
    from cosmos_train.config.errors import ConfigError

    if arguments.tokenizer is not None:
        if arguments.text or arguments.samples is not None or arguments.nproc is not None:
            raise ConfigError(
                "--text, --samples and --nproc go with a world model's YAML, --tokenizer with videos; use either"
            )
        return _tokenize_files(arguments)
    if arguments.out is not None or arguments.decode:
        raise ConfigError("--out and --decode need --tokenizer; without it a world model's YAML says what goes where")
    from cosmos_train.config.load import load_run
    from cosmos_train.config.schema import WorldARRun, WorldDiTRun

    run = load_run(arguments.source, arguments.overrides)
    if not isinstance(run, WorldDiTRun | WorldARRun):
        raise ConfigError(
            f"{arguments.source} is a {run.recipe} run; tokenize takes a world model's, which names a cache"
        )
    if arguments.text and (arguments.nproc, arguments.samples) != (None, None):
        raise ConfigError("--text encodes every caption in one process; leave out --nproc and --samples")
    if arguments.text:
        from cosmos_train.encoding.captions import encode_text

        return encode_text(run.text, run.data)
    return _tokenize_clips(arguments, threads_per_rank=run.train.threads_per_rank)


def _tokenize_clips(arguments: argparse.Namespace, *, threads_per_rank: int) -> int:
    from cosmos_launch.jobs.spawn import run_ranks
    from cosmos_train.config.environment import check_not_copied, own_ranks
    from cosmos_train.config.errors import ConfigError

    num_ranks = 1 if arguments.nproc is None else arguments.nproc
    if num_ranks < 1:
        raise ConfigError(f"--nproc {num_ranks} must be at least 1")
    ranks, stop = own_ranks(arguments.nproc), None
    if arguments.nproc is None and not ranks.is_given:
        check_not_copied()
    starts_ranks = num_ranks > 1 and not ranks.is_given
    if arguments.is_whole_process:
        from cosmos_launch.jobs.stopping import listen_as_launcher, listen_as_rank

        stop = listen_as_launcher() if starts_ranks else listen_as_rank()
    words = [arguments.source, *arguments.overrides, *(["--debug"] if arguments.debug else [])]
    words += [] if arguments.samples is None else [f"--samples={arguments.samples}"]
    if starts_ranks:
        command = [sys.executable, "-m", "cosmos_launch.jobs.encode_rank", *words]
        return run_ranks(command, num_ranks, threads_per_rank=threads_per_rank, stop=stop)
    from cosmos_launch.jobs.encode_rank import main as encode

    return encode(words, stop)


def _tokenize_files(arguments: argparse.Namespace) -> int:
    from cosmos_train.config.errors import ConfigError

    if arguments.out is None or arguments.overrides:
        raise ConfigError("tokenize with --tokenizer needs --out, a folder, and takes no overrides of a YAML")
    if arguments.decode and (arguments.padding is not None or arguments.short_side_px is not None):
        raise ConfigError("--padding and --short-side-px belong to encoding; latents say how theirs is undone")
    from cosmos_train.encoding.files import decode_files, encode_files

    if arguments.decode:
        return decode_files(Path(arguments.source), arguments.out, tokenizer=arguments.tokenizer)
    return encode_files(
        Path(arguments.source),
        arguments.out,
        tokenizer=arguments.tokenizer,
        padding=arguments.padding,
        short_side_px=arguments.short_side_px,
        fps=arguments.fps,
    )


def _sample(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.sample_request import SampleRequest
    from cosmos_launch.jobs.spawn import run_ranks
    from cosmos_train.config.environment import own_ranks

    request = SampleRequest(
        prompt=arguments.prompt,
        input_path=arguments.input,
        crop_input=arguments.crop,
        seed=arguments.seed,
        num_videos=arguments.num_videos,
        num_frames=arguments.num_frames,
        fps=arguments.fps,
        num_ranks=1 if arguments.nproc is None else arguments.nproc,
    )
    ranks = own_ranks(arguments.nproc)
    if request.num_ranks > 1 and not ranks.is_given:
        return run_ranks([sys.executable, "-m", "cosmos_launch.cli", *arguments.argv], request.num_ranks)
    from cosmos_launch.cli.sample import sample
    from cosmos_launch.jobs.stopping import end_with_launcher
    from cosmos_train.parallel import init

    end_with_launcher()
    exit_code = sample(arguments.run, arguments.overrides, request, out=arguments.out)
    init.stop()
    return exit_code


def _evaluate_world(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.evaluate import evaluate_world
    from cosmos_train.parallel import init

    exit_code = evaluate_world(arguments.run, arguments.overrides, out=arguments.out, max_windows=arguments.max_windows)
    init.stop()
    return exit_code


def _evaluate_tokenizer(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.evaluate import evaluate_tokenizer

    return evaluate_tokenizer(
        arguments.tokenizer,
        arguments.videos,
        arguments.overrides,
        out=arguments.out,
        protocol=arguments.protocol,
        fvd_network=arguments.fvd_network,
    )


def _ema(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.ema import make_average

    return make_average(arguments.run, sigma_rel=arguments.sigma_rel, step=arguments.step, out=arguments.out)


def _convert(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.convert import convert

    return convert(
        arguments.source,
        arguments.out,
        to=arguments.to,
        arguments=arguments.arguments,
        weights=arguments.weights,
        tokenizer=arguments.tokenizer,
        tp=arguments.tp,
        statistics=arguments.statistics,
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.doctor import main as doctor

    return doctor(json=arguments.json)


def _explain(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.explain import explain

    return explain(arguments.key)
