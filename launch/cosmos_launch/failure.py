"""An exception becomes one sentence and an exit code. 1: failed, 2: the user's input is wrong."""

import sys
import time
import traceback

NAMES_OF_FAILURES = {"CheckpointError", "FloatingPointError"}
"""By name, because importing the classes would import torch. The user's errors of this project are ValueErrors."""


def report_failure(error: BaseException, *, rank: int = 0, debug: bool = False) -> int:
    """Print what went wrong to standard error; return the exit code.

    A traceback is printed where it was asked for, and where the exception is none that this project raises for the
    user: then it is a defect, and the traceback is what a report needs.
    """
    if isinstance(error, SystemExit | KeyboardInterrupt):
        raise error
    name = type(error).__name__
    is_users = isinstance(error, ValueError | FileNotFoundError | PermissionError)
    is_known = is_users or name in NAMES_OF_FAILURES or isinstance(error, OSError)
    if rank > 0:
        # Most errors come on all ranks alike. Rank 0 tells them; the launcher then ends this rank in its sleep.
        time.sleep(2.0)
    if debug or not is_known:
        traceback.print_exception(error)
    where = f"rank {rank}: " if rank else ""
    print(f"cosmos-train: {where}{error}" if is_known else f"cosmos-train: {where}{name}: {error}", file=sys.stderr)
    return 2 if is_users else 1
