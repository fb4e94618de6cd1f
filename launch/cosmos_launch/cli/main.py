"""The `cosmos-train` command. Nothing heavy is imported before a command needs it, so that --help is instant.

Exit codes: 0 done, 1 failed, 2 the user's input is wrong, 75 stopped and saved, to be started again, 130 left at once.
"""

import sys
import warnings
from collections.abc import Sequence

from cosmos_launch.cli.commands import Command, Invocation, make_parser
from cosmos_launch.jobs.text_encoding import read_text_as_utf8


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:
        read_text_as_utf8()
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    typed = vars(arguments)
    if rest and ("overrides" not in typed or any("=" not in word or word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    command: Command = typed.pop("command")
    invocation = Invocation(
        argv=sys.argv[1:] if argv is None else argv,
        debug=typed.pop("debug"),
        is_whole_process=argv is None,
    )
    if "overrides" in typed:
        typed["overrides"] += rest  # argparse ends a list of positionals at the first option
    # megatron-core says so four times when it is imported; `cosmos-train doctor` says it once.
    warnings.filterwarnings("ignore", "Transformer Engine and Apex are not installed")
    try:
        return command.run(typed, invocation)
    except Exception as error:  # every command's errors become one sentence here
        from cosmos_launch.jobs.failure import report_failure
        from cosmos_train.config.environment import rank_for_messages

        return report_failure(error, rank=rank_for_messages(), debug=invocation.debug)
