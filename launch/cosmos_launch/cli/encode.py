"""`cosmos-train tokenize`: a world model's clips into its latent cache, its captions alone, or any videos and back."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_launch.cli.commands import Invocation
from cosmos_launch.jobs import encode_rank, spawn
from cosmos_launch.jobs.stopping import listen_as_launcher, listen_as_rank
from cosmos_train.config.environment import check_not_copied, own_ranks
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun, WorldDiTRun

if TYPE_CHECKING:
    from cosmos_tok.config import PaddingPolicy


def tokenize(
    source: str,
    overrides: Sequence[str],
    *,
    tokenizer: Path | None,
    nproc: int | None,
    text: bool,
    samples: int | None,
    out: Path | None,
    decode: bool,
    padding: "PaddingPolicy | None",
    short_side_px: int | None,
    fps: float,
    invocation: Invocation,
) -> int:
    """Encode what `source` names, a world model's YAML or, with a tokenizer, videos; return the exit code.

    Raises ConfigError where options contradict each other or the run is no world model's.
    """
    if tokenizer is not None:
        if text or samples is not None or nproc is not None:
            raise ConfigError(
                "--text, --samples and --nproc go with a world model's YAML, --tokenizer with videos; use either"
            )
        if out is None or overrides:
            raise ConfigError("tokenize with --tokenizer needs --out, a folder, and takes no overrides of a YAML")
        if decode and (padding is not None or short_side_px is not None):
            raise ConfigError("--padding and --short-side-px belong to encoding; latents say how theirs is undone")
        from cosmos_train.encoding.files import decode_files, encode_files

        if decode:
            return decode_files(Path(source), out, tokenizer=tokenizer)
        return encode_files(
            Path(source), out, tokenizer=tokenizer, padding=padding, short_side_px=short_side_px, fps=fps
        )
    if out is not None or decode:
        raise ConfigError("--out and --decode need --tokenizer; without it a world model's YAML says what goes where")
    run = load_run(source, overrides)
    if not isinstance(run, WorldDiTRun | WorldARRun):
        raise ConfigError(f"{source} is a {run.recipe} run; tokenize takes a world model's, which names a cache")
    if not text:
        words = [source, *overrides]
        if samples is not None:
            words.append(f"{encode_rank.SAMPLES}{samples}")
        return _encode_clips(words, nproc, threads_per_rank=run.train.threads_per_rank, invocation=invocation)
    if (nproc, samples) != (None, None):
        raise ConfigError("--text encodes every caption in one process; leave out --nproc and --samples")
    from cosmos_train.encoding.captions import encode_text

    return encode_text(run.text, run.data)


def _encode_clips(words: Sequence[str], nproc: int | None, *, threads_per_rank: int, invocation: Invocation) -> int:
    """Start the processes that share the windows, or be one of them: the only one, or one that torchrun has started."""
    num_ranks = 1 if nproc is None else nproc
    if num_ranks < 1:
        raise ConfigError(f"--nproc {num_ranks} must be at least 1")
    ranks, stop = own_ranks(nproc), None
    if nproc is None and not ranks.is_given:
        check_not_copied()
    starts_ranks = num_ranks > 1 and not ranks.is_given
    if invocation.is_whole_process:
        stop = listen_as_launcher() if starts_ranks else listen_as_rank()
    if invocation.debug:
        words = [*words, "--debug"]
    if starts_ranks:
        command = [sys.executable, "-m", "cosmos_launch.jobs.encode_rank", *words]
        return spawn.run_ranks(command, num_ranks, threads_per_rank=threads_per_rank, stop=stop)
    return encode_rank.main(list(words), stop)
