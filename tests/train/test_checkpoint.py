"""Stop, resume, reshard: the run goes on as if nothing had happened, or says in one sentence why it can not."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import tiny_world, training
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train import checkpoint
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.loop import DONE, STOPPED

DP2, TP2, PP2 = ParallelConfig(), ParallelConfig(tp=2), ParallelConfig(pp=2)
SEQUENCE = ParallelConfig(tp=2, sequence_parallel=True)
CONTEXT, INTERLEAVED = ParallelConfig(cp=2), ParallelConfig(pp=2, pp_chunks=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="module")
def uninterrupted(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on two data-parallel ranks."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    assert ranks(2).run(training.run_loop, cache, run_dir, DP2, {"num_steps": 6}) == [DONE, DONE]
    return run_dir


def test_resume_on_the_same_layout_is_bit_identical(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    settings = {"num_steps": 6, "stop_at_step": 3}
    assert ranks(2).run(training.run_loop, cache, tmp_path, DP2, settings) == [STOPPED, STOPPED]
    assert ranks(2).run(training.run_loop, cache, tmp_path, DP2, {"num_steps": 6}) == [DONE, DONE]
    assert training.losses(tmp_path) == training.losses(uninterrupted)
    averages = [ranks(1).run(training.saved_average, cache, run, DP2)[0] for run in (tmp_path, uninterrupted)]
    for name, average in averages[0].items():
        assert torch.equal(average, averages[1][name]), name


@pytest.mark.parametrize("parallel", [DP2, PP2])
def test_resume_of_a_bf16_run_is_bit_identical(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, parallel: ParallelConfig
):
    """Its fp32 weights and moments lie in one group of the optimizer with those of the fp32 uncertainty."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    settings = {"num_steps": 5, "precision": "bf16"}
    ranks(2).run(training.run_loop, cache, whole, parallel, settings)
    ranks(2).run(training.run_loop, cache, parted, parallel, settings | {"stop_at_step": 3})
    ranks(2).run(training.run_loop, cache, parted, parallel, settings)
    assert training.losses(parted) == training.losses(whole)


@pytest.mark.parametrize(
    ("before", "after"),
    [(TP2, DP2), (DP2, CONTEXT), (CONTEXT, INTERLEAVED), (INTERLEAVED, TP2), (PP2, SEQUENCE), (SEQUENCE, PP2)],
)
def test_resume_on_another_layout(
    ranks: Callable[[int], RankPool],
    cache: Path,
    tmp_path: Path,
    uninterrupted: Path,
    before: ParallelConfig,
    after: ParallelConfig,
):
    ranks(2).run(training.run_loop, cache, tmp_path, before, {"num_steps": 6, "stop_at_step": 3})
    assert ranks(2).run(training.run_loop, cache, tmp_path, after, {"num_steps": 6}) == [DONE, DONE]
    assert training.losses(tmp_path) == pytest.approx(training.losses(uninterrupted), rel=1e-4)


def test_resume_on_another_number_of_processes(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    ranks(2).run(training.run_loop, cache, tmp_path, TP2, {"num_steps": 6, "stop_at_step": 3})
    assert ranks(1).run(training.run_loop, cache, tmp_path, ParallelConfig(), {"num_steps": 6}) == [DONE]
    assert training.losses(tmp_path) == pytest.approx(training.losses(uninterrupted), rel=1e-4)


def test_no_rank_reads_what_others_hold(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path):
    mine, theirs = ranks(2).run(training.states_to_read, cache, tmp_path, DP2)
    [everything] = ranks(1).run(training.states_to_read, cache, tmp_path, DP2)
    assert mine | theirs == everything
    assert len(mine & theirs) < 0.1 * len(everything) and 0.2 < len(mine) / len(everything) < 0.8


def test_says_where_it_started_from(uninterrupted: Path):
    start, *_, done = training.events(uninterrupted)
    assert (start["event"], start["step"], start["source"].split(":")[0]) == ("start", 0, "scratch")
    assert (done["event"], done["step"]) == ("done", 6)


def test_order_of_sources(ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path):
    def chosen(run_dir: Path, **config: str) -> checkpoint.Source:
        first, second = ranks(2).run(training.chosen_source, run_dir, CheckpointConfig(**config))
        assert first == second
        return first

    newest = checkpoint.newest_checkpoint(uninterrupted)
    assert chosen(tmp_path).folder is None
    assert chosen(tmp_path, resume_from=str(uninterrupted)).folder == newest
    assert chosen(tmp_path, init_from=str(uninterrupted)).weights_only
    own = chosen(uninterrupted, init_from="nowhere")
    assert own.folder == newest and not own.weights_only
    for name, message in ranks(2).run(
        training.failure_of, training.chosen_source, tmp_path, CheckpointConfig(resume_from=str(tmp_path))
    ):
        assert name == "CheckpointError" and "neither a complete checkpoint" in message


def test_warm_start_takes_weights_alone(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    settings = {"num_steps": 1, "checkpoint": {"init_from": str(uninterrupted)}}
    assert ranks(2).run(training.run_loop, cache, tmp_path, TP2, settings) == [DONE, DONE]
    first, warm = training.losses(uninterrupted)[1], training.losses(tmp_path)
    assert list(warm) == [1]
    assert warm[1] != pytest.approx(first, rel=1e-3), "the same samples, but not the same weights as from scratch"
    assert "init_from" in training.events(tmp_path)[0]["source"]


def test_keeps_the_last(uninterrupted: Path):
    kept = sorted(folder.name for folder in (uninterrupted / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006"]


def test_incomplete_checkpoint_is_passed_over(uninterrupted: Path, tmp_path: Path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    (tmp_path / "run/checkpoints/step-00000006" / checkpoint.MARKER).unlink()
    newest = checkpoint.newest_checkpoint(tmp_path / "run")
    assert newest is not None and newest.name == "step-00000004"


def damaged(run_dir: Path, step: int) -> Path:
    """One bit of one file of a checkpoint is turned over."""
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    victim = sorted(folder.glob("*.distcp"))[-1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    return victim


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    damaged(run_dir, 6)
    (run_dir / "checkpoints" / "step-00000008.partial").mkdir()
    assert ranks(2).run(training.run_loop, cache, run_dir, DP2, {"num_steps": 6}) == [DONE, DONE]
    start = [event for event in training.events(run_dir) if event["event"] == "start"][-1]
    assert start["step"] == 4 and "a newer one is damaged" in start["source"]
    names = {folder.name for folder in (run_dir / "checkpoints").iterdir()}
    assert names == {"step-00000004", "step-00000006", "step-00000006.damaged"}, "what a crash left is gone"
    assert training.losses(run_dir) == training.losses(uninterrupted)


def test_only_damaged_checkpoints_are_no_reason_to_start_afresh(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for step in (4, 6):
        damaged(tmp_path / "run", step)
    chosen = (training.failure_of, training.chosen_source, tmp_path / "run", CheckpointConfig())
    for _ in range(2):  # a requeued job finds them set aside
        name, message = ranks(2).run(*chosen)[1]
        assert name == "CheckpointError" and "all 2 checkpoints of" in message
    restored = tmp_path / "run" / "checkpoints" / "step-00000004"
    shutil.copytree(uninterrupted / "checkpoints" / restored.name, restored)
    assert ranks(1).run(training.chosen_source, *chosen[2:])[0].folder == restored


def test_a_named_checkpoint_that_is_damaged_is_refused(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    victim = damaged(tmp_path / "run", 6)
    asked = CheckpointConfig(resume_from=str(tmp_path / "run"))
    name, message = ranks(2).run(training.failure_of, training.chosen_source, tmp_path / "new", asked)[0]
    assert name == "CheckpointError" and f"{victim.name} differs from its digest" in message
    trusting = CheckpointConfig(resume_from=str(tmp_path / "run"), verify=False)
    assert ranks(2).run(training.chosen_source, tmp_path / "new", trusting)[0].folder is not None


def test_another_architecture_is_refused(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for layout in (DP2, PP2):
        for name, message in ranks(2).run(
            training.failure_of, training.run_loop, cache, tmp_path / "run", layout, {"num_steps": 8}, {"adaln_rank": 4}
        ):
            assert name == "CheckpointError"
            assert "another architecture" in message
            assert "net.blocks.0.cross_modulation.down.weight: 8x48 in the checkpoint, 4x48 in this run" in message


def test_changed_data_seed_or_batch_is_refused(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    other = tiny_world.write_cache(tmp_path / "other", num_windows=9)
    shutil.copytree(uninterrupted, tmp_path / "run")
    name, message = ranks(1).run(
        training.failure_of, training.run_loop, other, tmp_path / "run", DP2, {"num_steps": 8}
    )[0]
    assert name == "ConfigError" and "digest" in message and "checkpoint.init_from" in message
    name, message = ranks(1).run(
        training.failure_of, training.run_loop, cache, tmp_path / "run", DP2, {"num_steps": 8, "global_batch_size": 8}
    )[0]
    assert name == "ConfigError" and "train.global_batch_size=4" in message


def test_newer_format_is_refused(uninterrupted: Path, tmp_path: Path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    marker = tmp_path / "run/checkpoints/step-00000006" / checkpoint.MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": checkpoint.FORMAT + 1}))
    with pytest.raises(checkpoint.CheckpointError, match="use a newer cosmos-train"):
        checkpoint.read_progress(marker.parent)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that the second checkpoint no longer fits on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3500k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["standing still", "beside training"])
def test_full_disk_leaves_the_checkpoint_before(
    ranks: Callable[[int], RankPool], cache: Path, small_disk: Path, asynchronous: bool
):
    run_dir = small_disk / "run"
    settings = {"num_steps": 6, "checkpoint": {"every_steps": 2, "asynchronous": asynchronous}}
    for name, message in ranks(2).run(training.failure_of, training.run_loop, cache, run_dir, DP2, settings):
        assert name == "CheckpointError"
        assert "could not write the checkpoint of step" in message and "the disk is full" in message
    newest = checkpoint.newest_checkpoint(run_dir)
    assert newest is not None, "the disk was too small for the first checkpoint already"
    assert not list((run_dir / "checkpoints").glob("*.partial")), "what was half written is gone"
    assert checkpoint.read_progress(newest).step < 6
