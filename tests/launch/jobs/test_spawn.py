"""Ranks are started with what they need, watched, ended together, and their exit code comes back."""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.slurm import has_pending

from cosmos_launch.jobs import spawn
from cosmos_launch.jobs.spawn import record_exit, run_ranks
from cosmos_train.train.signals import STOP_SIGNALS, StopSignals

PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
rank, folder = int(os.environ["RANK"]), pathlib.Path(sys.argv[1])

def say(name, *texts):
    aside = folder / f".{name}{rank}"
    aside.write_text(" ".join(map(str, texts)))
    aside.rename(folder / f"{name}{rank}")

"""

STOPS = """
from cosmos_launch.jobs.stopping import listen_as_rank
stop = listen_as_rank()
say('ready')
while not stop.is_asked:
    time.sleep(0.02)
say('got', *stop.received); sys.exit(75)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """run(code, num_ranks): the code once per rank; `say(name, text)` in it writes to tmp_path / f"{name}{rank}"."""

    def run(code: str, num_ranks: int = 2, **settings: int) -> int:
        return run_ranks([sys.executable, "-c", PRELUDE + code, str(tmp_path)], num_ranks, **settings)

    return run


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "GRACE_SEC", 0.5)


def wait_for(*paths: Path, timeout_sec: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_sec
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"none of {paths} in {timeout_sec} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """A zombie, which a container's first process may never fetch, is not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def told(rank: int, sentence: str) -> str:
    """The last line of what the launcher prints."""
    return f"cosmos-train: the first error was of rank {rank} on {platform.node()}: {sentence}\n"


def test_wrong_input_of_one_rank_stands_last_where_another_fails_of_its_end(
    run: Callable[..., int], short_grace: None, capfd: pytest.CaptureFixture[str]
):
    code = """
from cosmos_launch.jobs.failure import write_down
from cosmos_train.config.errors import ConfigError
while not rank and not (folder / "failed1").exists():
    time.sleep(0.01)
write_down(ConfigError("a shard is torn") if rank else RuntimeError("connection closed by peer"), rank=rank)
say("failed")
sys.exit(2 if rank else 1)
"""
    assert run(code) == 2
    assert capfd.readouterr().err.endswith(told(1, "a shard is torn"))


def test_every_rank_knows_its_place(run: Callable[..., int], tmp_path: Path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert run(f"say('env', ' '.join(os.environ[n] for n in {names}))", 3) == 0
    places = [(tmp_path / f"env{rank}").read_text().split() for rank in range(3)]
    port = places[0][-1]
    assert places == [[str(rank), str(rank), "3", "127.0.0.1", port] for rank in range(3)]


def test_the_port_is_free_and_anyones(run: Callable[..., int]):
    code = "import socket; port = int(os.environ['MASTER_PORT']); socket.socket().bind(('127.0.0.1', port)); "
    assert run(f"{code} sys.exit(port < 1024)", 1) == 0


@pytest.mark.parametrize(
    ("num_cores", "num_ranks", "asked", "threads"), [(8, 2, 0, "4"), (7, 2, 0, "3"), (1, 2, 0, "1"), (8, 2, 3, "3")]
)
def test_ranks_share_the_cores(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_cores, num_ranks, asked, threads
):
    monkeypatch.setattr(os, "cpu_count", lambda: num_cores)
    assert run("say('threads', os.environ['OMP_NUM_THREADS'])", num_ranks, threads_per_rank=asked) == 0
    assert {(tmp_path / f"threads{rank}").read_text() for rank in range(num_ranks)} == {threads}


def test_one_failure_ends_all_with_its_code(
    run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str], short_grace: None
):
    """Rank 0 hangs, as in a collective, and has started a helper, as megatron-core does to write a checkpoint."""
    hang = "helper = subprocess.Popen(['sleep', '600']); say('pids', f'{os.getpid()} {helper.pid}'); time.sleep(600)"
    fail = "\n    while not (folder / 'pids0').exists(): time.sleep(0.02)\n    sys.exit(3)"
    started = time.monotonic()
    assert run(f"if rank == 1:{fail}\n{hang}") == 3
    assert time.monotonic() - started < 15
    deadline = time.monotonic() + 5
    pids = [int(pid) for pid in (tmp_path / "pids0").read_text().split()]
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"{pids} were left behind"
        time.sleep(0.05)
    assert capfd.readouterr().err == told(1, "it left with exit code 3")


def test_a_single_rank_has_no_others(run: Callable[..., int], capfd: pytest.CaptureFixture[str]):
    assert run("sys.exit(1)", 1) == 1
    assert capfd.readouterr().err == ""


def test_the_first_error_stands_last_with_rank_and_host(run: Callable[..., int], capfd: pytest.CaptureFixture[str]):
    """Rank 0 loses its connection because of it, and says so later."""
    code = """
from cosmos_launch.jobs.failure import failures_folder, host_name
from cosmos_train.train.failures import record_failure
while rank == 0 and not any(failures_folder().glob("*")):
    time.sleep(0.01)
said = "out of memory" if rank == 1 else "connection closed by peer"
record_failure(failures_folder(), rank=rank, host=host_name(), code=1, sentence=said)
print(said, file=sys.stderr)
time.sleep(0.5 if rank == 1 else 0)
sys.exit(1)
"""
    assert run(code) == 1
    assert capfd.readouterr().err.splitlines(keepends=True)[-1] == told(1, "out of memory")


def test_the_others_get_a_moment_to_leave_by_themselves(run: Callable[..., int], tmp_path: Path):
    assert run("sys.exit(1) if rank == 0 else (time.sleep(1.0), say('left'))") == 1
    assert (tmp_path / "left1").exists()


def test_wrong_input_is_told_by_the_rank_alone(run: Callable[..., int], capfd: pytest.CaptureFixture[str]):
    assert run("rank == 0 and print('cosmos-train: what is wrong', file=sys.stderr); sys.exit(2)") == 2
    assert capfd.readouterr().err == "cosmos-train: what is wrong\n"


def test_a_rank_that_was_killed_is_named(run: Callable[..., int], capfd: pytest.CaptureFixture[str], short_grace: None):
    """By the kernel when memory ran out, for one: nobody else says so."""
    assert run("rank == 1 and os.kill(os.getpid(), signal.SIGKILL); time.sleep(600)") == 128 + signal.SIGKILL
    assert capfd.readouterr().err == told(1, "it was ended by SIGKILL")


def test_stopping_is_passed_through_and_nobody_is_hurried(
    run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Rank 0 still closes what it writes when the others have left with 75."""
    monkeypatch.setattr(spawn, "GRACE_SEC", 0.0)
    assert run("rank == 0 and (time.sleep(1.0), say('closed')); sys.exit(75)") == 75
    assert (tmp_path / "closed0").exists() and capfd.readouterr().err == ""


def test_a_stop_beside_a_rank_that_is_done_is_a_stop(run: Callable[..., int]):
    assert run("sys.exit(75 if rank == 1 else 0)") == 75


def test_a_failure_beside_a_stop_is_a_failure(run: Callable[..., int]):
    assert run("rank == 1 and time.sleep(0.5); sys.exit(75 if rank == 0 else 1)") == 1


@pytest.fixture
def listening_run(tmp_path: Path) -> Callable[..., int]:
    """listening_run(code, stop): the same in a process that listens, and with it two ranks."""

    def run(code: str, stop: StopSignals) -> int:
        return run_ranks([sys.executable, "-c", PRELUDE + code, str(tmp_path)], 2, stop=stop)

    return run


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda n: n.name)
def test_signals_are_passed_on(listening_run: Callable[..., int], tmp_path: Path, number: signal.Signals):
    """As SIGTERM: Ctrl-C a second time is for this process alone."""

    def send() -> None:
        wait_for(tmp_path / "ready0", tmp_path / "ready1")
        os.kill(os.getpid(), number)

    with StopSignals() as stop:
        sender = threading.Thread(target=send)
        sender.start()
        assert listening_run(STOPS, stop) == 75
        sender.join()
    assert [(tmp_path / f"got{rank}").read_text() for rank in range(2)] == ["15", "15"]


def test_a_signal_to_ranks_that_only_begin_to_run_is_not_lost(listening_run: Callable[..., int], tmp_path: Path):
    begins = "say('born', os.getpid())\nwhile not (folder / 'sent').exists(): time.sleep(0.02)\n"
    born = [tmp_path / f"born{rank}" for rank in range(2)]

    def send() -> None:
        wait_for(*born)
        os.kill(os.getpid(), signal.SIGTERM)
        while not all(has_pending(int(path.read_text()), signal.SIGTERM) for path in born):
            time.sleep(0.02)
        (tmp_path / "sent").touch()

    with StopSignals() as stop:
        sender = threading.Thread(target=send)
        sender.start()
        assert listening_run(begins + STOPS, stop) == 75
        sender.join()


def test_who_was_asked_before_starts_no_ranks(listening_run: Callable[..., int], tmp_path: Path):
    with StopSignals() as stop:
        stop.ask(signal.SIGUSR1)
        assert listening_run("say('born')", stop) == 75
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_node_is_suspected_of_a_rank_s_end_by_no_signal_that_asks(tmp_path: Path, number: signal.Signals):
    for rank, code in enumerate((-number, 128 + number)):
        record_exit(tmp_path, rank, code)
    lines = [path.read_text() for path in sorted(tmp_path.glob("rank-*"))]
    assert [line.split("\t")[0] for line in lines] == ["0" if number == signal.SIGKILL else "1", "1"]
    assert {line.split("\t")[2] for line in lines} == {str(128 + number)}


def test_a_command_that_can_not_be_started_is_an_error():
    with pytest.raises(FileNotFoundError):
        run_ranks(["no-such-command"], 1)
