"""A process of `cosmos-train tokenize RUN.yaml --nproc N`: `python -m cosmos_launch.encode_rank RUN.yaml [overrides]`.

Started by `cosmos-train tokenize`, by the nodes of `cosmos-train submit --tokenize`, or by torchrun with the same
arguments, on any number of machines that share the folder of the cache.
"""

import logging
import sys

from cosmos_launch.failure import leave, report_failure, write_down
from cosmos_launch.stopping import listen_as_rank
from cosmos_launch.text_encoding import read_text_as_utf8
from cosmos_train.config.environment import rank_for_messages
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.train.signals import StopSignals


def main(arguments: list[str], stop: StopSignals | None = None) -> int:
    """Make this process's shards. Arguments: the YAML, then overrides; `--debug` anywhere shows tracebacks.

    Returns the exit code, 75 where it was asked to `stop` before all were there; None where nobody listens.
    """
    debug = "--debug" in arguments
    config, *overrides = [argument for argument in arguments if argument != "--debug"]
    rank = rank_for_messages()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        run = load_run(config, overrides)
        if not isinstance(run, WorldDiTRun | WorldARRun):
            raise ConfigError(f"{config} is a {run.recipe} run; tokenize takes a world model's, which names a cache")
        from cosmos_launch.encode import encode_clips

        return encode_clips(run, stop or StopSignals())
    except BaseException as error:
        write_down(error, rank=rank)
        return report_failure(error, rank=rank, debug=debug)


if __name__ == "__main__":
    read_text_as_utf8()
    stop_signals = listen_as_rank()
    leave(main(sys.argv[1:], stop_signals))
