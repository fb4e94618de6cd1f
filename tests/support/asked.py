"""A rank that is asked to stop when its run comes to a certain point."""

import os
import signal
import time

import pytest

from cosmos_launch.jobs.worker import run_rank
from cosmos_train.config.schema import TokenizerRun
from cosmos_train.recipes import tokenizer
from cosmos_train.recipes.tokenizer import TokenizerTask
from cosmos_train.train.signals import StopSignals

POINTS = {
    "the manifest is read": (tokenizer, "read_parts"),
    "weights are taken over": (TokenizerTask, "warm_start"),
    "the tokenizer is exported": (TokenizerTask, "finish"),
}


def run_asked_when(point: str, run: TokenizerRun, port: int) -> int:
    """Train as a worker does. Rank 1 gets a SIGTERM at the point's beginning; no other rank gets one.

    port: of the store where the ranks of this run meet.
    """
    os.environ["MASTER_PORT"] = str(port)
    owner, name = POINTS[point]
    original = getattr(owner, name)
    with StopSignals() as stop, pytest.MonkeyPatch.context() as patch:

        def asked(*arguments, **more):
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
                while not stop.is_asked:
                    time.sleep(0.01)
            return original(*arguments, **more)

        patch.setattr(owner, name, asked)
        return run_rank(run, stop)
