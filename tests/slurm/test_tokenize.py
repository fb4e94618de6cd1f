"""A latent cache that a job makes on a real Slurm of two nodes, and the run that waits for it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import filled_run
from support.slurm import LIMIT_SEC, Job, submit

from cosmos_launch.cli.main import main
from cosmos_train.config.load import to_yaml

WINDOW_MIB = 4 * 3 * 4 * 6 * 4 / 2**20


def write_run(inputs: Path, folder: Path) -> str:
    """The YAML of a run in folder/run, whose cache of 23 shards is folder/cache."""
    latents = {"fill": False, "hop_frames": 1, "shard_mib": 4 * WINDOW_MIB}
    run = filled_run.make_run(inputs, folder / "cache", folder / "run", **latents)
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(to_yaml(run))
    return str(folder / "run.yaml")


def files_of(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def wait_for_shards(cache: Path, number: int) -> None:
    deadline = time.monotonic() + LIMIT_SEC
    while len(list(cache.glob("windows/[!.]*.arrow"))) < number:
        assert time.monotonic() < deadline, f"there are no {number} shards in {cache}"
        time.sleep(0.001)


@pytest.mark.long
def test_two_nodes_of_which_one_loses_its_rank_make_the_cache_that_training_waits_for(cluster: Path, tmp_path: Path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    filled_run.write_inputs(inputs)
    assert main(["tokenize", write_run(inputs, tmp_path / "alone")]) == 0
    folder = tmp_path / "nodes"
    shutil.copytree(tmp_path / "alone" / "cache" / "text", folder / "cache" / "text")  # T5 takes seconds to load
    line = [write_run(inputs, folder), "--nodes", "2", "--tokenize", "cluster.retry_backoff_sec=1"]
    making = Job(submit(tmp_path, *line), folder / "run")
    training = Job(str(int(making.number) + 1), folder / "run")
    making.wait_until(lambda: making.has_rank(1), "the second rank")
    rank = making.rank_pid(1)
    wait_for_shards(folder / "cache", 3)
    os.kill(rank, signal.SIGKILL)
    making.wait_until(lambda: "the first error was" in making.log, "the crash")
    assert "in the queue again after a crash, retry 1 of 3" in making.log
    assert "the first error was of rank 1 on n2: it was ended by SIGKILL\n" in making.log
    shown = subprocess.run(["scontrol", "show", "job", training.number], capture_output=True, text=True, check=True)
    assert f"Dependency=afterok:{making.number}(unfulfilled)" in shown.stdout
    subprocess.run(["scancel", training.number], check=True)  # test_queue.py has a chain that is trained
    making.start_again_at_once()
    making.wait_for_end()
    assert files_of(folder / "cache") == files_of(tmp_path / "alone" / "cache")
