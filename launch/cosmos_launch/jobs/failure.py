"""An exception becomes one sentence and an exit code. 1: failed, 2: the user's input is wrong."""

import contextlib
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from cosmos_train.train.failures import record_failure
from cosmos_train.train.signals import STOPPED

FAILURES = "COSMOS_TRAIN_FAILURES"
"""Variable that whoever starts ranks sets: the folder of failures_folder()."""
NAMES_OF_FAILURES = {"CheckpointError", "FloatingPointError"}
"""By name, because importing the classes would import torch. Classes of this project that are about the input say so
themselves, as `input_is_wrong`; other ValueErrors are defects, whatever they are about."""


def report_failure(error: BaseException, *, rank: int = 0, debug: bool = False) -> int:
    """Print what went wrong to standard error; return the exit code.

    A traceback is printed where it was asked for, and where the exception is none that this project raises for the
    user: then it is a defect, and the traceback is what a report needs.
    """
    if isinstance(error, SystemExit | KeyboardInterrupt):
        raise error
    is_known, sentence = _is_known(error), sentence_of(error)
    if rank > 0:
        # Most errors come on all ranks alike. Rank 0 tells them; the launcher then ends this rank in its sleep.
        time.sleep(2.0)
    if debug or not is_known:
        traceback.print_exception(error)
    where = f"rank {rank}: " if rank else ""
    print(f"cosmos-train: {where}{sentence}", file=sys.stderr)
    return exit_code_of(error)


def leave(code: int) -> NoReturn:
    """End this process. After a failure at once: groups whose other ranks are gone would keep Python from ending."""
    if code in (0, STOPPED):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    end_children()  # those that write checkpoints would stay for ever
    os._exit(code)


def end_children() -> None:
    """Kill what this process has started, and what that has."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def sentence_of(error: BaseException) -> str:
    """What is said of it; a defect is named by its class."""
    return str(error) if _is_known(error) else f"{type(error).__name__}: {error}"


def exit_code_of(error: BaseException) -> int:
    """1: failed, 2: the user's input is wrong."""
    return 2 if _is_users(error) else 1


def failures_folder() -> Path | None:
    """Where the ranks of this job write down what they fail of (train.failures); None where nobody reads it."""
    folder = os.environ.get(FAILURES)
    return Path(folder) if folder else None


def write_down(error: BaseException, *, rank: int) -> None:
    """For whoever reads the folder of failures, where somebody does."""
    folder = failures_folder()
    if folder is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
        record_failure(folder, rank=rank, host=host_name(), code=exit_code_of(error), sentence=sentence_of(error))


def host_name() -> str:
    """This machine, as Slurm calls it where it is one of its nodes."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _is_users(error: BaseException) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return error.filename is not None
    return getattr(error, "input_is_wrong", False)


def _is_known(error: BaseException) -> bool:
    is_own = hasattr(error, "input_is_wrong") or type(error).__name__ in NAMES_OF_FAILURES
    return is_own or isinstance(error, OSError)
