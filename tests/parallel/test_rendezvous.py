"""A rank whose others do not come ends with one sentence after a stated time."""

import os
import socket
import subprocess
import sys

import pytest

START = """
import sys
from cosmos_launch.jobs.failure import report_failure
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
try:
    init.start(ParallelConfig(), seed=0, rendezvous_sec=1.0)
except Exception as error:
    sys.exit(report_failure(error))
"""


@pytest.mark.parametrize("rank", ["0", "1"], ids=["the first", "another"])
def test_a_rank_that_waits_alone_says_for_whom_and_how_long(rank: str):
    with socket.socket() as taken:  # bound and not listening: nobody answers, and nobody else gets it
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        if rank == "0":
            taken.close()  # it listens there itself
        told = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | told
        done = subprocess.run(
            [sys.executable, "-c", START], env=environment, text=True, capture_output=True, timeout=120
        )
    said = [line for line in done.stderr.splitlines() if "cosmos-train: " in line]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    [sentence] = said
    assert f"rank {rank} of 2 (RANK, WORLD_SIZE) did not meet the others at 127.0.0.1:{port}" in sentence
    assert "where it waits 1 s for them: " in sentence and "unset RANK WORLD_SIZE" in sentence
