"""Processes that make the shards of a latent cache: one or several, stopped or killed and started again, beside other
jobs, they give the same bytes."""

import dataclasses
import multiprocessing
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from support import filled_run
from support.nodes import start_node
from support.ranks import RankPool, open_store, rank_environment

from cosmos_data.caches.latents import INDEX_NAME, LatentStore, is_finished
from cosmos_data.caches.shard_plan import RegularWindows
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.whole_file import remove_abandoned
from cosmos_launch.cli.main import main
from cosmos_launch.jobs.stopping import ASKED
from cosmos_tok.whitening import load_statistics
from cosmos_train.config.load import to_yaml
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.train.signals import STOPPED
from cosmos_train.windows.kept import STATISTICS

NUM_WINDOWS = 4 * 22
"""Of 9 frames, one from each frame on, of 4 clips of 30 frames."""
WINDOWS_PER_SHARD = 4
NUM_SHARDS = 17 + 6
LIMIT_SEC = 120


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def run_of(inputs: Path, folder: Path) -> WorldDiTRun:
    """With its cache in folder/cache."""
    shard_mib = WINDOWS_PER_SHARD * 4 * 4 * 3 * 4 * 6 / 2**20
    latents = {"fill": False, "hop_frames": 1, "shard_mib": shard_mib}
    return filled_run.make_run(inputs, folder / "cache", folder / "run", **latents)


def line(inputs: Path, folder: Path) -> list[str]:
    """`tokenize` of that run."""
    path = folder / "run.yaml"
    path.write_text(to_yaml(run_of(inputs, folder)))
    return ["tokenize", str(path)]


@pytest.fixture(scope="module")
def unbroken(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of one process."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert main(line(inputs, folder)) == 0
    return folder / "cache"


def files_of(cache: Path) -> dict[str, bytes]:
    """By their names."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def num_shards(cache: Path) -> int:
    return len(list((cache / "windows").glob("[!.]*.arrow")))


def wait_for_shards(cache: Path, number: int, is_running: Callable[[], bool]) -> None:
    """Until there are so many."""
    deadline = time.monotonic() + LIMIT_SEC
    while num_shards(cache) < number:
        assert is_running() and time.monotonic() < deadline
        time.sleep(0.001)


def line_with_texts(inputs: Path, unbroken: Path, folder: Path) -> list[str]:
    """The same, beside captions that are encoded already: processes that are killed anyway need not load T5."""
    shutil.copytree(unbroken / "text", folder / "cache" / "text")
    return line(inputs, folder)


def start_rank(command: list[str], rank: int = 0, num_ranks: int = 1, port: int = 0) -> BaseProcess:
    """A process of its own for one rank of the job that the command names; imports are shared with those of pools."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cosmos_train.recipes.world_dit"])
    told = rank_environment(rank, num_ranks, port)
    process = context.Process(target=filled_run.encode_as_rank, args=(told, command[1:]), daemon=True)
    process.start()
    return process


@pytest.mark.long
def test_two_processes_killed_at_random_and_one_that_goes_on(inputs: Path, unbroken: Path, tmp_path: Path):
    """All of them at once, as when a machine goes down."""
    command = line_with_texts(inputs, unbroken, tmp_path)
    store = open_store()
    job = [start_rank(command, rank, 2, store.port) for rank in range(2)]
    wait_for_shards(tmp_path / "cache", random.randint(1, NUM_SHARDS // 2), lambda: all(p.is_alive() for p in job))
    for process in job:
        process.kill()
    for process in job:
        process.join()
    assert not is_finished(tmp_path / "cache")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "windows").glob("[!.]*.arrow")}
    assert kept and main(command) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "they are taken as they are"
    assert files_of(tmp_path / "cache") == files_of(unbroken), "and what was half-written is gone"


def test_two_jobs_fill_a_folder_and_one_is_killed(inputs: Path, unbroken: Path, tmp_path: Path):
    command = line_with_texts(inputs, unbroken, tmp_path)
    other = start_rank(command)

    def kill_later() -> None:
        wait_for_shards(tmp_path / "cache", random.randint(2, NUM_SHARDS - 2), lambda: True)
        other.kill()

    wait_for_shards(tmp_path / "cache", 1, other.is_alive)
    killer = threading.Thread(target=kill_later)
    killer.start()
    try:
        assert main(command) == 0
    finally:
        killer.join()
        other.join()
    remove_abandoned(tmp_path / "cache" / "windows")
    assert files_of(tmp_path / "cache") == files_of(unbroken)


@pytest.mark.long
def test_a_node_that_is_asked_to_stop_and_one_process_that_goes_on(inputs: Path, unbroken: Path, tmp_path: Path):
    """As srun starts it, torchrun and two ranks. Its exit code sends the job back to the queue."""
    command, cache = line_with_texts(inputs, unbroken, tmp_path), tmp_path / "cache"
    with start_node(command[1], tmp_path / "failures", module="cosmos_launch.jobs.encode_rank") as node:
        wait_for_shards(cache, 1, lambda: node.poll() is None)
        node.send_signal(signal.SIGUSR1)
        assert node.wait(LIMIT_SEC) == STOPPED
    assert [path.name for path in (tmp_path / "failures").iterdir()] == [ASKED]
    assert 0 < num_shards(cache) < NUM_SHARDS and not list(cache.rglob("*.partial"))
    assert main(command) == 0
    assert files_of(cache) == files_of(unbroken)


def test_ranks_share_the_work(inputs: Path, unbroken: Path, tmp_path: Path, ranks: Callable[[int], RankPool]):
    """Weights, of which T5 has 45 GB, are hashed by the first for all."""
    run = run_of(inputs, tmp_path)
    run = dataclasses.replace(run, text=dataclasses.replace(run.text, cache=str(tmp_path / "texts")))
    hashed = [inputs / "tokenizer", inputs / "t5"]
    assert ranks(2).run(filled_run.encode_share, run) == [(0, hashed), (0, [])]
    assert files_of(tmp_path / "cache") == files_of(unbroken)
    assert ranks(2).run(filled_run.encode_share, run) == [(0, hashed[:1]), (0, [])], "it is complete already"


def test_what_was_made_is_gathered_over_the_group_of_the_long_wait(ranks: Callable[[int], RankPool]):
    """That of all ranks: others give up after half an hour (encode.LONGEST_WAIT_MIN)."""
    assert ranks(2).run(filled_run.gather_made) == [[0, 1], [0, 1]]


def test_what_was_made(unbroken: Path):
    """Regular windows of both splits, whitening statistics of the first."""
    store = LatentStore(unbroken)
    store.verify()
    assert len(store) == NUM_WINDOWS and len(store.indices("heldout")) == 22
    train = torch.stack([store.window(k).z_CTHW for k in store.indices("train")]).double()
    statistics = load_statistics(unbroken / STATISTICS)
    torch.testing.assert_close(statistics.mean_CT, train.mean(dim=(0, 3, 4)).float())
    torch.testing.assert_close(statistics.std_CT, train.std(dim=(0, 3, 4), correction=0).float())
    starts = [store.describe(k).start_frame for k in store.indices("heldout")]
    assert starts == list(range(90, 112)), "every frame of the held-out clip"
    assert {store.describe(k).caption for k in range(len(store))} == {"a red ball"}
    assert len(list((unbroken / "text").iterdir())) == 1, "all shards have the same caption"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--nproc", "0"], "--nproc 0 must be at least 1"),
        (["--nproc", "2", "--text"], "--text encodes every caption in one process; leave out --nproc and --samples"),
        (["latents.shard_mib=0"], "latents.shard_mib=0"),
    ],
)
def test_what_is_refused(more: list[str], said: str, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main([*line(inputs, tmp_path), *more]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_damaged_shard_and_one_of_another_tokenizer(
    inputs: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Of a cache that is not finished yet: each is told, and what the message says helps."""
    command, cache = line(inputs, tmp_path), tmp_path / "cache"
    shutil.copytree(unbroken, cache)
    (cache / INDEX_NAME).unlink()
    path = next((cache / "windows").iterdir())
    whole, digest = path.read_bytes(), LatentStore(unbroken).metadata.tokenizer_digest.encode()
    for content, said in (
        (whole[:-20], "is no shard, or was cut off"),
        (
            whole.replace(digest, digest[::-1]),
            f"was made with tokenizer_digest={digest[::-1].decode()}, and this latent",
        ),
    ):
        path.write_bytes(content)
        assert main(command) == 2
        assert f"{path.name} {said}" in capfd.readouterr().err
        assert not is_finished(cache)
    path.unlink()
    assert main(command) == 0
    assert files_of(cache) == files_of(unbroken)


def test_what_is_there_is_found_without_making_a_window(
    inputs: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But for that of a shard whose captions' states are missing."""
    command, cache = line(inputs, tmp_path), tmp_path / "cache"
    shutil.copytree(unbroken, cache)
    num_made, make = [0], RegularWindows.__getitem__

    def counted(windows: RegularWindows, number: int) -> Sample:
        num_made[0] += 1
        return make(windows, number)

    monkeypatch.setattr(RegularWindows, "__getitem__", counted)
    (cache / INDEX_NAME).unlink()
    assert main(command) == 0 and num_made == [0]
    [text] = (cache / "text").iterdir()
    for path in (cache / INDEX_NAME, text):
        path.unlink()
    assert main(command) == 0 and num_made == [WINDOWS_PER_SHARD]
    assert files_of(cache) == files_of(unbroken)
