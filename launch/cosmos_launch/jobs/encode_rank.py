"""`python -m cosmos_launch.jobs.encode_rank RUN.yaml [overrides]`: a process of `cosmos-train tokenize --nproc`.

Started by `cosmos-train tokenize`, by the nodes of `cosmos-train submit --tokenize`, or by torchrun with the same
arguments, on any number of machines that share the folder of the cache.
"""

import logging
import sys

from cosmos_launch.jobs.failure import leave, report_failure, write_down
from cosmos_launch.jobs.stopping import listen_as_rank
from cosmos_launch.jobs.text_encoding import read_text_as_utf8
from cosmos_train.config.environment import rank_for_messages
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.train.signals import StopSignals

SAMPLES = "--samples="


def main(arguments: list[str], stop: StopSignals | None = None) -> int:
    """Encode this process's share. Arguments: the YAML, then overrides; `--samples=N` and `--debug` stand anywhere, and
    mean what they do after `cosmos-train tokenize`.

    Returns the exit code, 75 where it was asked to `stop` before all were there; None where nobody listens.
    """
    debug = "--debug" in arguments
    config, *overrides = [argument for argument in arguments if not argument.startswith("--")]
    samples = [argument.removeprefix(SAMPLES) for argument in arguments if argument.startswith(SAMPLES)]
    rank = rank_for_messages()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        run = load_run(config, overrides)
        if not isinstance(run, WorldDiTRun | WorldARRun):
            raise ConfigError(f"{config} is a {run.recipe} run; tokenize takes a world model's, which names a cache")
        return _encode(run, int(samples[-1]) if samples else None, stop or StopSignals())
    except BaseException as error:
        write_down(error, rank=rank)
        return report_failure(error, rank=rank, debug=debug)


def _encode(run: WorldDiTRun | WorldARRun, num_samples: int | None, stop: StopSignals) -> int:
    """The windows that a run with latents.fill=true will ask for, or a finished cache."""
    from cosmos_train.encoding.filling_cache import encode_ahead
    from cosmos_train.encoding.finished_cache import encode_clips

    if run.latents.fill:
        return encode_ahead(run, num_samples, stop)
    if num_samples is not None:
        raise ConfigError("--samples is for a run with latents.fill=true; others take all windows of a finished cache")
    return encode_clips(run, stop)


if __name__ == "__main__":
    read_text_as_utf8()
    stop_signals = listen_as_rank()
    leave(main(sys.argv[1:], stop_signals))
