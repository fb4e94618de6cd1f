"""The commands of `cosmos-train`: the name of each, what it is for, its options, and the function that carries it out.

A function is named by its module and imported when its command is run, so `--help` waits for none of them. It takes
what was typed as keyword arguments: a `dest` in options.py and data_options.py is the name of the function's parameter.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from cosmos_launch.cli import data_options, options


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """How a command was started, for those that start processes of it."""

    argv: Sequence[str]
    """The command line after `cosmos-train`."""
    debug: bool
    """Whether tracebacks are to be shown."""
    is_whole_process: bool
    """False where somebody calls main() in a process that has signals of its own."""


@dataclass(frozen=True, slots=True)
class Command:
    """One line of the table."""

    name: str
    """The user types this; in a group, after the group's name."""
    help: str
    """What the command is for, in the lists of `--help` and at the head of its own."""
    add_options: Callable[[argparse.ArgumentParser], None]
    """Tells the parser what may follow the name."""
    function: str
    """`module:function`; it returns the exit code."""
    starts_ranks: bool = False
    """Whether the function takes an `invocation` too, because it may start processes."""

    def run(self, typed: Mapping[str, object], invocation: Invocation) -> int:
        """Import the function, call it with what was typed and return the exit code."""
        module, _, name = self.function.partition(":")
        function = getattr(import_module(module), name)
        return function(**typed, invocation=invocation) if self.starts_ranks else function(**typed)


GROUPS = {
    "data": ("ACTION", "make, check, pack, simulate and describe manifests of videos"),
    "evaluate": ("WHAT", "say how good a world model or a tokenizer is, on held-out clips"),
}
"""First word of commands of two -> what the second one is called in usage lines, and what the group is for."""

COMMANDS = (
    Command(
        "data build",
        "make a manifest of videos: decode them once, cut them into clips",
        data_options.build,
        "cosmos_launch.cli.data:build",
    ),
    Command(
        "data check",
        "say what is wrong with a manifest and its files, and where",
        data_options.check,
        "cosmos_launch.cli.data:check",
    ),
    Command(
        "data pack",
        "write a manifest's clips so that they are cheap to read anywhere in",
        data_options.pack,
        "cosmos_launch.cli.data:pack",
    ),
    Command(
        "data simulate",
        "make clips of a simulated world, with exact cameras, actions, depth, instances and captions",
        data_options.simulate,
        "cosmos_launch.cli.simulate:simulate_world",
    ),
    Command(
        "data stats",
        "show lengths, sizes, frame rates and buckets of a manifest as a page with plots",
        data_options.stats,
        "cosmos_launch.pages.data_page:stats",
    ),
    Command(
        "train",
        "train, or go on training, the run that a YAML file describes",
        options.train,
        "cosmos_launch.cli.train:train",
        starts_ranks=True,
    ),
    Command(
        "submit",
        "queue runs with Slurm: checked, with a copy of the code, each until it is done",
        options.submit,
        "cosmos_launch.jobs.submit:submit",
    ),
    Command(
        "status",
        "how far a run is, how fast, what became of it: read from its folder alone",
        options.status,
        "cosmos_launch.cli.status:status",
    ),
    Command(
        "report",
        "a page about a run: curves over all restarts, speed, memory, ranks, what happened",
        options.report,
        "cosmos_launch.pages.run_page:write_run_page",
    ),
    Command(
        "checkpoint",
        "list, verify, remove or compare a run's checkpoints",
        options.checkpoint,
        "cosmos_launch.cli.checkpoints:checkpoint",
    ),
    Command(
        "tokenize",
        "encode a world model's clips into its latent cache, or any videos, and back",
        options.tokenize,
        "cosmos_launch.cli.encode:tokenize",
        starts_ranks=True,
    ),
    Command(
        "sample",
        "generate videos with a trained world model",
        options.sample,
        "cosmos_launch.cli.sample_ranks:sample_on_ranks",
        starts_ranks=True,
    ),
    Command(
        "evaluate world",
        "compare a world model with repeating the last frame",
        options.evaluate_world,
        "cosmos_launch.cli.evaluate:evaluate_world",
    ),
    Command(
        "evaluate tokenizer",
        "compare videos with their reconstructions",
        options.evaluate_tokenizer,
        "cosmos_launch.cli.evaluate:evaluate_tokenizer",
    ),
    Command(
        "ema",
        "make a moving average of another width out of a run's snapshots of power-law averages",
        options.ema,
        "cosmos_launch.cli.ema:make_average",
    ),
    Command(
        "convert",
        "turn another project's tokenizer or world model into ours, or ours into theirs",
        options.convert,
        "cosmos_launch.cli.convert:convert",
    ),
    Command(
        "doctor",
        "what this machine has, what is missing and what that costs",
        options.doctor,
        "cosmos_launch.cli.doctor.doctor:doctor",
    ),
    Command(
        "explain",
        "what a configuration key means, its type, its default, who reads it",
        options.explain,
        "cosmos_launch.cli.explain:explain",
    ),
)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; what it parses has the `Command` itself as `command`."""
    parser = argparse.ArgumentParser(prog="cosmos-train", description="Train world foundation models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    groups = {}
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        if group and group not in groups:
            metavar, help = GROUPS[group]
            in_group = commands.add_parser(group, help=help, description=help)
            groups[group] = in_group.add_subparsers(required=True, metavar=metavar)
        within = groups[group] if group else commands
        parser_of_one = within.add_parser(name, help=command.help, description=command.help)
        parser_of_one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        parser_of_one.set_defaults(command=command)
        command.add_options(parser_of_one)
    return parser
