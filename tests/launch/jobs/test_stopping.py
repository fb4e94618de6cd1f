"""The launcher and two ranks: what they do when asked to stop, when their terminal is closed, when one is killed.

Where no training is needed to see it, a rank is a loop that prints and "saves" a file.
"""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import tiny_tokenizer, tiny_world
from support.asked import run_asked_when
from support.footage import carphone_clips
from support.nodes import FT_LAUNCHER, start_node
from support.ranks import RankPool, open_store

from cosmos_launch.jobs.stopping import ASKED, INTERRUPTED, LAUNCHER
from cosmos_tok.store import load_tokenizer
from cosmos_train.config.load import to_yaml
from cosmos_train.objectives.config import ReconstructionConfig
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.tokenizer import EXPORT
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.signals import DONE, STOPPED

LAUNCH = """
import sys
from cosmos_launch.jobs.spawn import run_ranks
from cosmos_launch.jobs.stopping import listen_as_launcher
sys.exit(run_ranks([sys.executable, "-c", *sys.argv[1:]], 2, stop=listen_as_launcher()))
"""
RANK = """
import os, pathlib, sys, time
from cosmos_launch.jobs.stopping import listen_as_rank
stop = listen_as_rank()
folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
(folder / f".{rank}").write_text(str(os.getpid()))
(folder / f".{rank}").rename(folder / f"up{rank}")
while not stop.is_asked:
    print("a step", flush=True)
    time.sleep(0.02)
while (folder / "hold").exists():
    time.sleep(0.02)
print("saving", flush=True)
(folder / f"saved{rank}").touch()
sys.exit(75)
"""
AT_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Program that runs a command as a shell of that terminal does: its terminal is that of standard input."""
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
WAIT_SEC = 100.0


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + WAIT_SEC
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """A zombie, which a container's first process may never fetch, is."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Terminal:
    """A terminal, with a command in it."""

    def __init__(self, command: list[str]) -> None:
        self.screen, line = pty.openpty()
        at_terminal = [sys.executable, "-c", AT_TERMINAL, *command]
        self.process = subprocess.Popen(
            at_terminal, env=ENVIRONMENT, stdin=line, stdout=line, stderr=line, start_new_session=True
        )
        os.close(line)
        self.shown = ""

    def read(self) -> None:
        """Add to what is shown."""
        os.set_blocking(self.screen, False)
        with contextlib.suppress(OSError):  # nothing new, or everyone has left
            self.shown += os.read(self.screen, 2**16).decode(errors="replace")

    def shows(self, text: str) -> bool:
        self.read()
        return text in self.shown

    def press_ctrl_c(self) -> None:
        os.write(self.screen, b"\x03")

    def close(self) -> None:
        if self.screen >= 0:
            os.close(self.screen)
        self.screen = -1


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    """Start the launcher and two ranks in a terminal, and wait for the ranks."""
    started: list[Terminal] = []

    def launch() -> Terminal:
        started.append(Terminal([sys.executable, "-c", LAUNCH, RANK, str(tmp_path)]))
        wait_until(lambda: started[-1].read() or len(list(tmp_path.glob("up*"))) == 2, started[-1].process)
        return started[-1]

    yield launch
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        terminal.close()


def test_a_closed_terminal_is_a_reason_to_save(launch: Callable[[], Terminal], tmp_path: Path):
    """The launcher gets SIGHUP, and nobody can print from then on."""
    terminal = launch()
    terminal.close()
    assert terminal.process.wait(WAIT_SEC) == STOPPED
    assert len(list(tmp_path.glob("saved*"))) == 2


def test_ctrl_c_saves_and_says_what_a_second_one_does(launch: Callable[[], Terminal], tmp_path: Path):
    terminal = launch()
    (tmp_path / "hold").touch()
    terminal.press_ctrl_c()
    wait_until(lambda: terminal.shows("Ctrl-C again leaves at once, and what is not saved is lost"))
    (tmp_path / "hold").unlink()
    assert terminal.process.wait(WAIT_SEC) == STOPPED
    assert len(list(tmp_path.glob("saved*"))) == 2


def test_a_second_ctrl_c_leaves_at_once(launch: Callable[[], Terminal], tmp_path: Path):
    terminal = launch()
    ranks = [int(path.read_text()) for path in tmp_path.glob("up*")]
    (tmp_path / "hold").touch()
    terminal.press_ctrl_c()
    wait_until(lambda: terminal.shows("Ctrl-C again leaves at once"))
    terminal.press_ctrl_c()
    assert terminal.process.wait(WAIT_SEC) == INTERRUPTED == 130
    wait_until(lambda: all(map(is_gone, ranks)))
    assert not list(tmp_path.glob("saved*")) and terminal.shown.count("Ctrl-C again") == 1


def test_a_rank_alone_leaves_at_its_second_ctrl_c(tmp_path: Path):
    """Started by somebody else's launcher, or by hand."""
    (tmp_path / "hold").touch()
    line = [sys.executable, "-c", RANK, str(tmp_path)]
    rank = subprocess.Popen(line, env=ENVIRONMENT | {"RANK": "0"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "up0").exists, rank)
    rank.send_signal(signal.SIGINT)
    assert rank.stderr is not None and b"Ctrl-C again leaves at once" in rank.stderr.readline()
    rank.send_signal(signal.SIGINT)
    assert rank.wait(WAIT_SEC) == INTERRUPTED


def test_ranks_end_with_a_launcher_that_is_killed(launch: Callable[[], Terminal], tmp_path: Path):
    terminal = launch()
    ranks = [int(path.read_text()) for path in tmp_path.glob("up*")]
    assert not any(map(is_gone, ranks))
    terminal.process.kill()
    wait_until(lambda: all(map(is_gone, ranks)))
    assert not list(tmp_path.glob("saved*"))


def test_a_rank_whose_launcher_was_gone_before_does_not_begin(tmp_path: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    environment = ENVIRONMENT | {"RANK": "0", LAUNCHER: str(gone.pid)}
    line = [sys.executable, "-c", RANK, str(tmp_path)]
    assert subprocess.run(line, env=environment, timeout=WAIT_SEC).returncode == 1
    assert not (tmp_path / "up0").exists()


def test_a_rank_finds_what_its_job_was_asked_before(tmp_path: Path):
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / ASKED).touch()
    environment = ENVIRONMENT | {"RANK": "0", "COSMOS_TRAIN_FAILURES": str(tmp_path / "failures")}
    line = [sys.executable, "-c", RANK, str(tmp_path)]
    assert subprocess.run(line, env=environment, timeout=WAIT_SEC).returncode == STOPPED


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that does not end by itself, in a folder `run` beside its YAML."""
    folder = tmp_path_factory.mktemp("training")
    cache = tiny_world.write_cache(folder / "cache")
    run = tiny_world.make_run(cache, folder / "run", ParallelConfig(), num_steps=100_000)
    (folder / "run.yaml").write_text(to_yaml(run))
    return folder / "run.yaml"


def ranks_of(launcher: psutil.Process) -> list[psutil.Process]:
    """Those that it has started by now."""
    return [
        child
        for child in launcher.children()
        if module_of(child) in ("cosmos_launch.jobs.worker", "cosmos_launch.jobs.resilient")
    ]


def module_of(process: psutil.Process) -> str:
    """What a process of Python runs (-m); empty of one that has ended. A node's forks have the words of the node, which
    name the module of its ranks, too."""
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return ""
    return words[words.index("-m") + 1] if "-m" in words[:-1] else ""


def import_torch(ranks: list[psutil.Process]) -> bool:
    """Whether two ranks are at it."""
    return len(ranks) == 2 and all("libtorch" in Path(f"/proc/{rank.pid}/maps").read_text() for rank in ranks)


def test_asked_while_ranks_import_the_run_stops_before_its_first_step(run_yaml: Path):
    line = [sys.executable, "-m", "cosmos_launch.cli", "train", str(run_yaml), "--nproc", "2"]
    launcher = subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: import_torch(ranks_of(psutil.Process(launcher.pid))), launcher)
    launcher.terminate()
    _, err = launcher.communicate(timeout=WAIT_SEC)
    assert launcher.returncode == STOPPED, err
    assert err.splitlines()[-1].endswith("asked to stop before the first step: nothing is lost")
    assert not (run_yaml.parent / "run" / "metrics.jsonl").exists()
    assert not (run_yaml.parent / "run" / "training.json").exists()


def test_a_training_in_a_terminal_that_is_closed_is_saved(run_yaml: Path):
    terminal = Terminal([sys.executable, "-m", "cosmos_launch.cli", "train", str(run_yaml), "--nproc", "2"])
    metrics = run_yaml.parent / "run" / "metrics.jsonl"
    wait_until(lambda: terminal.read() or (metrics.exists() and '"loss"' in metrics.read_text()), terminal.process)
    ranks = ranks_of(psutil.Process(terminal.process.pid))
    terminal.close()
    assert terminal.process.wait(WAIT_SEC) == STOPPED
    assert len(ranks) == 2 and all(is_gone(rank.pid) for rank in ranks)
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["event"] == "stop"
    saved = run_yaml.parent / "run" / "checkpoints" / f"step-{last['step']:08d}" / "complete.json"
    assert saved.exists()


WITHOUT = pytest.mark.skipif(not FT_LAUNCHER.is_dir(), reason="nvidia-resiliency-ext has no package for this machine")


def test_ranks_that_come_after_the_signal_stop_before_their_first_step(run_yaml: Path, tmp_path: Path):
    node = start_node(run_yaml, tmp_path / "failures")
    wait_until(lambda: blocks(node.pid, signal.SIGUSR1), node)
    assert not psutil.Process(node.pid).children()
    node.send_signal(signal.SIGUSR1)
    assert node.wait(WAIT_SEC) == STOPPED
    assert [path.name for path in (tmp_path / "failures").iterdir()] == [ASKED]


def blocks(pid: int, number: signal.Signals) -> bool:
    """Whether the process's first thread does, so that the one that listens is there at once, or already."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigBlk:\t")[1].split()[0], 16) & 1 << number - 1)


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("ft_launcher", marks=WITHOUT)])
def test_ranks_of_a_node_end_with_it(run_yaml: Path, launcher: str, tmp_path: Path):
    """Also those that only begin to run, and what ft_launcher has forked to watch them."""
    node = start_node(run_yaml, tmp_path, launcher)
    process = psutil.Process(node.pid)
    wait_until(lambda: len(ranks_of(process)) == 2, node)
    started = process.children()
    node.kill()
    node.wait()
    wait_until(lambda: all(is_gone(child.pid) for child in started))


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    """Two ranks of this file alone: a worker leaves the groups that others would go on with."""
    pool = RankPool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carphone_clips(tmp_path_factory.mktemp("footage"))


def train_asked_when(pool: RankPool, point: str, manifest: Path, run_dir: Path, **settings: Any) -> list[int]:
    """Exit codes of both ranks of a run of two steps, of which rank 1 is asked to stop."""
    loss = ReconstructionConfig()
    run = tiny_tokenizer.make_run(manifest, run_dir, train={"num_steps": 2}, loss=loss, **settings)
    store = open_store()  # a worker leaves its groups at the end, so each run has a meeting of its own
    return pool.run(run_asked_when, point, run, store.port)


@pytest.fixture(scope="module")
def exported(pool: RankPool, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[int], Path]:
    """Exit codes and folder of a run that was asked to stop at its end."""
    run_dir = tmp_path_factory.mktemp("exported") / "run"
    return train_asked_when(pool, "the tokenizer is exported", manifest, run_dir), run_dir


def test_asked_during_the_export_the_run_is_done(exported: tuple[list[int], Path]):
    codes, run_dir = exported
    assert codes == [DONE, DONE]
    load_tokenizer(run_dir / EXPORT)
    assert json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["event"] == "done"


def test_asked_while_one_rank_reads_the_manifest_both_stop(pool: RankPool, manifest: Path, tmp_path: Path):
    codes = train_asked_when(pool, "the manifest is read", manifest, tmp_path / "run")
    assert codes == [STOPPED, STOPPED]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_asked_during_the_warm_start_both_ranks_stop(
    pool: RankPool, manifest: Path, tmp_path: Path, exported: tuple[list[int], Path]
):
    """Before a step, so the next start begins at the same weights again."""
    config = CheckpointConfig(init_from=str(exported[1]))
    codes = train_asked_when(pool, "weights are taken over", manifest, tmp_path / "run", checkpoint=config)
    assert codes == [STOPPED, STOPPED]
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / "checkpoints").exists()
