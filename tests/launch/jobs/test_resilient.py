"""A node's ranks under ft_launcher: what it is told, what is said where it is missing, what is kept of failures.

Its options are recorded (data/). `make setup` puts the package into a folder apart, so that both are tried: a node that
has it, where a killed rank is started again, and one that has it not.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import tiny_world

from cosmos_launch.jobs import resilient
from cosmos_launch.jobs.failure import STOPPED
from cosmos_train.config.load import to_yaml
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.failures import read_failures, record_failure

RECORDED = json.loads((Path(__file__).with_name("data") / "ft_launcher_0.4.1.json").read_text())
NODE = {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7", "MASTER_ADDR": "127.0.0.1"}
APART = Path(sys.prefix) / "ft_launcher"


def start_node(tmp_path: Path, run_yaml: Path, port: int, *more_packages: Path) -> subprocess.Popen:
    environment = os.environ | NODE | {"MASTER_PORT": str(port), "COSMOS_TRAIN_FAILURES": str(tmp_path / "failures")}
    environment |= {"SLURMD_NODENAME": "n1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, more_packages), *sys.path])
    command = [
        sys.executable,
        "-m",
        "cosmos_launch.jobs.node",
        run_yaml,
        "2",
        "ft_launcher",
        "2",
        "cosmos_launch.jobs.worker",
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_it_is_told_what_it_takes(monkeypatch: pytest.MonkeyPatch):
    for name, value in (NODE | {"SLURM_NODEID": "1", "MASTER_PORT": "5"}).items():
        monkeypatch.setenv(name, value)
    *given, script, argument = resilient.options("run.yaml", 8, 3)
    assert (script, argument) == ("cosmos_launch.jobs.resilient", "run.yaml")
    for option in given:
        name, has_value, _ = option.partition("=")
        assert name in RECORDED["value" if has_value else "switch"], option
    assert {"--rdzv-endpoint=127.0.0.1:5", "--rdzv-conf=is_host=0", "--max-restarts=3"} <= set(given)


def test_where_it_is_not_installed_the_node_says_so_and_the_job_is_not_tried_again(tmp_path: Path):
    (tmp_path / "run.yaml").write_text(to_yaml(tiny_world.make_run(tmp_path, tmp_path / "world", ParallelConfig())))
    node = start_node(tmp_path, tmp_path / "run.yaml", 1)
    _, err = node.communicate(timeout=100)
    assert node.returncode == 2, err
    assert "cluster.launcher=ft_launcher needs nvidia-resiliency-ext" in err and "set cluster.launcher=torchrun" in err
    failure = read_failures(tmp_path / "failures")[0]
    assert (failure.code, failure.host, failure.rank) == (2, "n1", 0)


def test_failures_of_a_start_are_its_own_and_those_of_the_last_become_the_job_s(tmp_path: Path):
    environment = os.environ | {"COSMOS_TRAIN_FAILURES": str(tmp_path), resilient.RESTART: "10", "RANK": "0"}
    record_failure(tmp_path / "restart-9", rank=1, host="n2", code=137, sentence="before", was_silent=True)
    line = [sys.executable, "-m", "cosmos_launch.jobs.resilient", tmp_path / "missing.yaml"]
    done = subprocess.run(line, env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True)
    assert done.returncode == 2 and not (tmp_path / "ended").exists()
    resilient._keep_last(tmp_path)
    failure = read_failures(tmp_path)[0]
    assert failure.rank == 0 and "missing.yaml" in failure.sentence


@pytest.mark.skipif(not APART.is_dir(), reason="nvidia-resiliency-ext has no package for this machine (make setup)")
def test_a_killed_rank_is_started_again_and_a_stopped_run_leaves_with_75(tmp_path: Path):
    cache, world = tiny_world.write_cache(tmp_path / "cache"), tmp_path / "world"
    run = tiny_world.make_run(cache, world, ParallelConfig(), num_steps=100_000)
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    node = start_node(tmp_path, tmp_path / "run.yaml", 20000 + os.getpid() % 10000, APART)
    wait_for(lambda: len(list(world.glob("checkpoints/step-*/complete.json"))))
    ranks = [
        p for p in psutil.Process(node.pid).children(recursive=True) if "cosmos_launch.jobs.resilient" in p.cmdline()
    ]
    ranks[-1].send_signal(signal.SIGKILL)
    wait_for(lambda: (world / "metrics.jsonl").read_text().count('"event": "start"') == 2)
    node.send_signal(signal.SIGTERM)
    out, err = node.communicate(timeout=200)
    assert node.returncode == STOPPED, err
    assert "this run's newest checkpoint" in out


def wait_for(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")
