"""Stop, resume, reshard: the run goes on as if nothing had happened, or says in one sentence why it can not."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import tiny_world, training
from support.checkpoints import seal_again, unseal
from support.damaging import draw_damage
from support.ranks import RankPool

from cosmos_train.interop.source import open_source
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import (
    FORMAT,
    MARKER,
    CheckpointError,
    newest_checkpoint,
    read_progress,
    resolve,
)
from cosmos_train.train.checkpoint.judge import _check_of
from cosmos_train.train.checkpoint.start import StartingPoint
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.loop import DONE, STOPPED

DP2, TP2, PP2 = ParallelConfig(), ParallelConfig(tp=2), ParallelConfig(pp=2)
SEQUENCE = ParallelConfig(tp=2, sequence_parallel=True)
CONTEXT, INTERLEAVED = ParallelConfig(cp=2), ParallelConfig(pp=2, pp_chunks=2)
TP2_DP2, PP2_CP2 = ParallelConfig(tp=2), ParallelConfig(pp=2, cp=2)
NUM_STEPS = 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="module")
def whole(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, str]]:
    """A run on two data-parallel ranks, and sample -> digest of what it was trained on."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    settings = {"num_steps": NUM_STEPS, "checkpoint": {"every_steps": 2}}
    (one, samples), (other, others) = ranks(2).run(training.noting_samples, cache, run_dir, DP2, settings)
    assert (one, other) == (DONE, DONE) and len(samples | others) == len(samples) + len(others) == 4 * NUM_STEPS
    return run_dir, samples | others


@pytest.fixture(scope="module")
def uninterrupted(whole: tuple[Path, dict[int, str]]) -> Path:
    return whole[0]


def test_resume_of_a_bf16_run_is_bit_identical(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path):
    """Its fp32 weights and moments lie in one group of the optimizer with those of the fp32 uncertainty."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    settings = {"num_steps": 5, "precision": "bf16"}
    ranks(2).run(training.run_loop, cache, whole, DP2, settings)
    ranks(2).run(training.run_loop, cache, parted, DP2, settings | {"stop_at_step": 3})
    ranks(2).run(training.run_loop, cache, parted, DP2, settings)
    assert training.steps(parted) == training.steps(whole)


@pytest.mark.parametrize(
    "starts",
    [
        # Of 4, 2 and 1 ranks: tp, pp, cp, dp and what the distributed optimizer divides, all changed at once.
        [(4, TP2_DP2), (4, PP2_CP2), (2, CONTEXT), (4, PP2), (1, DP2), (4, CONTEXT)],
        [(2, TP2), (2, DP2), (2, CONTEXT), (2, INTERLEAVED), (2, SEQUENCE), (2, PP2)],
    ],
    ids=["other numbers of ranks", "two ranks"],
)
def test_resume_on_other_layouts_goes_on_alike(
    ranks: Callable[[int], RankPool],
    cache: Path,
    tmp_path: Path,
    whole: tuple[Path, dict[int, str]],
    starts: list[tuple[int, ParallelConfig]],
):
    """One run that stops every two steps and goes on in another layout, with the same samples."""
    run_dir, samples = whole
    seen: dict[int, str] = {}
    for number, (num_ranks, parallel) in enumerate(starts, start=1):
        settings = {"num_steps": NUM_STEPS, "stop_at_step": 2 * number, "checkpoint": {"every_steps": 100}}
        for code, of_rank in ranks(num_ranks).run(training.noting_samples, cache, tmp_path, parallel, settings):
            assert code == (STOPPED if number < len(starts) else DONE)
            assert all(seen.setdefault(index, digest) == digest for index, digest in of_rank.items())
    assert seen == samples
    assert training.losses(tmp_path) == pytest.approx(training.losses(run_dir), rel=1e-5)
    mine, theirs = (ranks(1).run(training.saved_average, cache, run, DP2)[0] for run in (tmp_path, run_dir))
    for name, average in mine.items():
        torch.testing.assert_close(average, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("num_ranks", "parallel"), [(2, DP2), (4, TP2_DP2), (4, PP2_CP2)])
def test_no_rank_reads_more_than_it_keeps(
    ranks: Callable[[int], RankPool],
    cache: Path,
    tmp_path: Path,
    uninterrupted: Path,
    num_ranks: int,
    parallel: ParallelConfig,
):
    """Of a checkpoint of another layout, too: its weights, and of the optimizer and averages what it updates."""
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    found = ranks(num_ranks).run(training.bytes_read, cache, tmp_path, parallel)
    assert all(read == kept for read, kept in found)
    [(all_there_is, _)] = ranks(1).run(training.bytes_read, cache, tmp_path, DP2)
    assert max(read for read, _ in found) < 0.7 * all_there_is


def test_says_where_it_started_from(uninterrupted: Path):
    start, *_, done = training.events(uninterrupted)
    assert (start["event"], start["step"], start["source"].split(":")[0]) == ("start", 0, "scratch")
    assert (done["event"], done["step"]) == ("done", NUM_STEPS)


def test_order_of_sources(ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path):
    def chosen(run_dir: Path, **config: str) -> StartingPoint:
        first, second = ranks(2).run(training.chosen_start, run_dir, CheckpointConfig(**config))
        assert first == second
        return first

    newest = newest_checkpoint(uninterrupted)
    assert chosen(tmp_path).folder is None
    assert chosen(tmp_path, resume_from=str(uninterrupted)).folder == newest
    assert chosen(tmp_path, init_from=str(uninterrupted)).weights_only
    own = chosen(uninterrupted, init_from="nowhere")
    assert own.folder == newest and not own.weights_only
    for name, message in ranks(2).run(
        training.failure_of, training.chosen_start, tmp_path, CheckpointConfig(resume_from=str(tmp_path))
    ):
        assert name == "CheckpointError" and "neither a complete checkpoint" in message


def test_what_rank_0_fails_of_is_raised_on_all_ranks(ranks: Callable[[int], RankPool], tmp_path: Path):
    """Whatever it is: the others would wait for rank 0 until their collective gives up."""
    (tmp_path / "file").write_text("found")
    assert ranks(2).run(training.read_by_main, tmp_path / "file") == ["found", "found"]
    failures = ranks(2).run(training.failure_of, training.read_by_main, tmp_path / "nowhere")
    assert [name for name, _ in failures] == ["FileNotFoundError", "FileNotFoundError"]


def test_the_count_of_updates_is_the_largest_of_all_ranks(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path
):
    """Rank 0 writes it, and may hold no parameter: TransformerEngine's Adam does not count in empty groups."""
    assert ranks(2).run(training.updates_that_rank_1_counted, cache, tmp_path, PP2) == [5, 5]


def test_a_checkpoint_with_the_progress_of_another_is_damaged(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path
):
    """Its digests agree, as after a repair by hand; the optimizer has made two more steps than it says."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    before, newest = (tmp_path / "run/checkpoints" / f"step-000000{step}" for step in (10, 12))
    shutil.rmtree(before)
    progress = read_progress(newest)
    newest = newest.rename(before)
    seal_again(newest, dataclasses.replace(progress, step=10, samples_consumed=40))
    for key in ("run_dir", "resume_from"):
        config = CheckpointConfig() if key == "run_dir" else CheckpointConfig(**{key: str(newest)})
        run_dir = tmp_path / ("run" if key == "run_dir" else "new")
        for name, message in ranks(2).run(training.failure_of, training.chosen_start, run_dir, config):
            assert name == "CheckpointError"
            assert "complete.json says 10 steps, 0 of them skipped, and the optimizer's own count is 12" in message


@pytest.mark.parametrize("key", ["run_dir", "resume_from", "init_from"])
def test_all_ranks_take_what_rank_0_sees(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path, key: str
):
    """Each rank looks from its own folder: what they see there is what differs on file systems that lag behind."""
    views = [tmp_path / "0", tmp_path / "1"]
    for view in views:
        shutil.copytree(uninterrupted / "checkpoints", view / "run" / "checkpoints")
    config = CheckpointConfig() if key == "run_dir" else CheckpointConfig(**{key: "run"})
    run_dir = "run" if key == "run_dir" else "new"
    arguments = (training.seen_from_own_folder, views, run_dir, config)
    other = views[1] / "run" / "checkpoints"
    (other / "step-00000014").mkdir()
    newest = newest_checkpoint(views[0] / "run")
    assert newest is not None
    for source in ranks(2).run(*arguments):
        assert source.folder == newest.relative_to(views[0]) and not source.damaged
    shutil.copytree(other / "step-00000010", other / "step-00000012", dirs_exist_ok=True)
    for _ in ("another of that name", "none of that name"):
        for name, message in ranks(2).run(training.failure_of, *arguments):
            assert name == "CheckpointError" and "is not the same on all nodes: rank 1 sees another" in message
        shutil.rmtree(other, ignore_errors=True)
    shutil.rmtree(views[0] / "run")
    shutil.copytree(uninterrupted / "checkpoints", other)
    found = ranks(2).run(training.failure_of, *arguments)
    assert found[0] == found[1], "rank 0 sees none"


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
    assert kept == ["step-00000010", "step-00000012"]


def test_a_checkpoint_that_lost_its_marker_is_damaged(
    ranks: Callable[[int], RankPool], cache: Path, uninterrupted: Path, tmp_path: Path
):
    """The run goes on from the one before, and says why; who names it, itself or by its run, is refused."""
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    (run_dir / "checkpoints/step-00000012" / MARKER).unlink()
    newest = newest_checkpoint(run_dir)
    assert newest is not None and newest.name == "step-00000010"
    for key in ("resume_from", "init_from"):
        for named in (run_dir, run_dir / "checkpoints/step-00000012"):
            config = CheckpointConfig(**{key: str(named)})
            for name, message in ranks(2).run(training.failure_of, training.chosen_start, tmp_path / "new", config):
                is_read = (key, named.name) == ("init_from", "step-00000012")  # as another project's, by the task
                assert (name, MARKER in message) == (("", False) if is_read else ("CheckpointError", True))
    assert ranks(2).run(training.run_loop, cache, run_dir, DP2, {"num_steps": NUM_STEPS}) == [DONE, DONE]
    start = [event for event in training.events(run_dir) if event["event"] == "start"][-1]
    assert start["step"] == 10 and "a newer one is damaged" in start["source"]
    aside = run_dir / "checkpoints/step-00000012.damaged"
    assert (aside / "damage.txt").read_text() == "complete.json is missing\n"
    assert training.losses(run_dir) == training.losses(uninterrupted)


@pytest.mark.parametrize("left", ["without a marker", "an empty folder", "a link to nothing", "a file", "set aside"])
def test_what_is_left_of_checkpoints_is_no_reason_to_start_afresh(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, left: str
):
    folders, settings = tmp_path / "checkpoints", {"num_steps": 2}
    step = folders / "step-00000002"
    (folders / "step-00000004.partial").mkdir(parents=True)
    if left == "a link to nothing":
        step.symlink_to(tmp_path / "unmounted")
    elif left == "a file":
        step.write_text("")
    else:
        (step if left != "set aside" else step.with_name(f"{step.name}.damaged")).mkdir()
    if left == "without a marker":
        (step / "common.pt").write_text("")
    run = (training.failure_of, training.run_loop, cache, tmp_path, DP2, settings)
    before = sorted(tmp_path.rglob("*"))
    for name, message in ranks(2).run(*run):
        assert name == "CheckpointError" and "all 1 checkpoints of" in message and step.name in message
    assert sorted(tmp_path.rglob("*")) == before, "a start that is refused changes nothing"
    shutil.rmtree(folders)
    (folders / "step-00000004.partial").mkdir(parents=True)
    assert ranks(2).run(*run) == [("", "")] * 2, "what a save left that was interrupted is no checkpoint"


def test_checkpoints_that_can_not_be_listed_are_no_reason_to_start_afresh(
    ranks: Callable[[int], RankPool], tmp_path: Path
):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "unmounted")
    for name, message in ranks(2).run(training.failure_of, training.chosen_start, tmp_path, CheckpointConfig()):
        assert name == "CheckpointError" and f"{tmp_path}/checkpoints can not be looked into" in message


def damaged(run_dir: Path, step: int, kind: str = "weights") -> Path:
    """One bit of one file of a checkpoint is turned over."""
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    victim = sorted(folder.glob(f"{kind}_*.distcp"))[-1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    return victim


@pytest.fixture(scope="module")
def stopped(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with checkpoints of its steps 1 and 2; the folder `whole` beside it went on to step 3."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    settings = {"num_steps": 3, "checkpoint": {"every_steps": 1, "keep_last": 3}}
    ranks(1).run(training.run_loop, cache, run_dir, DP2, settings | {"stop_at_step": 2})
    shutil.copytree(run_dir, run_dir.with_name("whole"))
    ranks(1).run(training.run_loop, cache, run_dir.with_name("whole"), DP2, settings)
    return run_dir


@pytest.mark.long
@given(data=st.data())
@settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_from_any_damage_the_run_goes_on_alike_or_says_why_not(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, stopped: Path, data: st.DataObject
):
    """From what is whole, which is the damaged one's own or the one before; both give the same losses."""
    run_dir = tmp_path / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    shutil.copytree(stopped, run_dir)
    newest, before = (run_dir / "checkpoints" / f"step-0000000{step}" for step in (2, 1))
    damage = draw_damage(data, newest, before)
    is_harmless = damage.is_none()
    settings = {"num_steps": 3, "checkpoint": {"every_steps": 1, "keep_last": 3}}
    run = (training.told_failure_of, training.run_loop, cache, run_dir, DP2, settings)
    [(code, told)] = ranks(1).run(*run)
    if code:
        assert damage.way == "swap folders", "nothing else harms the one before"
        assert code in (1, 2) and "Traceback" not in told and told.count("\n") == 1 and str(run_dir) in told
        assert not (run_dir / "checkpoints" / "step-00000003").exists()
    else:
        assert training.losses(run_dir) == training.losses(stopped.with_name("whole"))
        start = [event for event in training.events(run_dir) if event["event"] == "start"][-1]
        assert start["step"] == (2 if is_harmless else 1)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    damaged(run_dir, 12)
    (run_dir / "checkpoints" / "step-00000014.partial").mkdir()
    assert ranks(2).run(training.run_loop, cache, run_dir, DP2, {"num_steps": NUM_STEPS}) == [DONE, DONE]
    start = [event for event in training.events(run_dir) if event["event"] == "start"][-1]
    assert start["step"] == 10 and "a newer one is damaged" in start["source"]
    names = {folder.name for folder in (run_dir / "checkpoints").iterdir()}
    assert names == {"step-00000010", "step-00000012", "step-00000012.damaged"}, "what a crash left is gone"
    assert training.losses(run_dir) == training.losses(uninterrupted)


def test_only_damaged_checkpoints_are_no_reason_to_start_afresh(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for step in (10, 12):
        damaged(tmp_path / "run", step)
    chosen = (training.failure_of, training.chosen_start, tmp_path / "run", CheckpointConfig())
    for _ in range(2):  # a requeued job finds them as they were
        name, message = ranks(2).run(*chosen)[1]
        assert name == "CheckpointError" and "all 2 checkpoints of" in message
        assert "step-00000012: weights_00001.distcp differs from its digest; step-00000010: weights" in message
    restored = tmp_path / "run" / "checkpoints" / "step-00000010"
    shutil.copytree(uninterrupted / "checkpoints" / restored.name, restored, dirs_exist_ok=True)
    assert ranks(1).run(training.chosen_start, *chosen[2:])[0].folder == restored


def test_a_named_checkpoint_that_is_damaged_is_refused(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    victim = damaged(tmp_path / "run", 12)
    asked = CheckpointConfig(resume_from=str(tmp_path / "run"))
    name, message = ranks(2).run(training.failure_of, training.chosen_start, tmp_path / "new", asked)[0]
    assert name == "CheckpointError" and f"{victim.name} differs from its digest" in message
    trusting = CheckpointConfig(resume_from=str(tmp_path / "run"), verify=False)
    assert ranks(2).run(training.chosen_start, tmp_path / "new", trusting)[0].folder is not None
    os.truncate(victim, victim.stat().st_size // 2)
    name, message = ranks(2).run(training.failure_of, training.chosen_start, tmp_path / "new", trusting)[1]
    assert name == "CheckpointError" and f"{victim.name} has {victim.stat().st_size} bytes instead of" in message


def test_of_weights_alone_the_files_that_hold_them_are_compared(
    ranks: Callable[[int], RankPool], tmp_path: Path, uninterrupted: Path
):
    """A warm start, on all ranks together, and what reads a checkpoint in one process, as a conversion does."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    chosen = (training.chosen_start, tmp_path / "new", CheckpointConfig(init_from=str(tmp_path / "run")))
    damaged(tmp_path / "run", 12, "optimizer")
    assert ranks(2).run(*chosen)[0].weights_only and open_source(tmp_path / "run").layout == "checkpoint"
    victim = damaged(tmp_path / "run", 12)
    name, message = ranks(2).run(training.failure_of, *chosen)[0]
    assert name == "CheckpointError" and f"{victim.name} differs from its digest" in message
    with pytest.raises(CheckpointError, match=f"{victim.name} differs from its digest"):
        open_source(tmp_path / "run")
    run_yaml, progress = victim.with_name("run.yaml"), read_progress(victim.parent)
    run_yaml.write_text(run_yaml.read_text().replace("verify: true", "verify: false"))
    seal_again(victim.parent, progress)
    assert open_source(tmp_path / "run").layout == "checkpoint"


@pytest.mark.parametrize("name", ["weights_00001.distcp", "optimizer_00000.distcp", ".metadata", "common.pt"])
def test_a_file_that_ends_too_early_is_our_error_without_digests_too(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path, name: str
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    newest = resolve(tmp_path / "run")
    shutil.rmtree(newest.with_name("step-00000010"))  # which is taken where it shows before anything is loaded
    unseal(newest)
    os.truncate(newest / name, (newest / name).stat().st_size // 2)
    settings = {"num_steps": NUM_STEPS + 2, "checkpoint": {"verify": False}}
    for error, message in ranks(2).run(training.failure_of, training.run_loop, cache, tmp_path / "run", DP2, settings):
        assert error == "CheckpointError" and newest.name in message and "\n" not in message


def test_another_architecture_is_refused(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    for layout in (DP2, PP2):
        for name, message in ranks(2).run(
            training.failure_of,
            training.run_loop,
            cache,
            tmp_path / "run",
            layout,
            {"num_steps": 14},
            {"adaln_rank": 4},
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
        training.failure_of, training.run_loop, other, tmp_path / "run", DP2, {"num_steps": 14}
    )[0]
    assert name == "ConfigError" and "digest" in message and "checkpoint.init_from" in message
    name, message = ranks(1).run(
        training.failure_of, training.run_loop, cache, tmp_path / "run", DP2, {"num_steps": 14, "global_batch_size": 8}
    )[0]
    assert name == "ConfigError" and "train.global_batch_size=4" in message


def test_newer_format_is_refused(uninterrupted: Path, tmp_path: Path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    marker = tmp_path / "run/checkpoints/step-00000012" / MARKER
    values = json.loads(marker.read_text()) | {"format": FORMAT + 1}
    del values["check"]
    marker.write_text(json.dumps(values | {"check": _check_of(values)}))
    with pytest.raises(CheckpointError, match="use a newer cosmos-train"):
        read_progress(marker.parent)


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
        assert f"could not write the checkpoint of step 4 to {run_dir}" in message and "the disk is full" in message
    newest = newest_checkpoint(run_dir)
    assert newest is not None, "the disk was too small for the first checkpoint already"
    assert not list((run_dir / "checkpoints").glob("*.partial")), "what was half written is gone"
    assert read_progress(newest).step < 6


def test_a_full_staging_disk_is_the_one_that_is_named(
    ranks: Callable[[int], RankPool], cache: Path, small_disk: Path, tmp_path: Path
):
    (small_disk / "filled").write_bytes(bytes(3_000_000))
    settings = {"num_steps": 2, "checkpoint": {"asynchronous": True, "staging_dir": str(small_disk)}}
    for name, message in ranks(2).run(training.failure_of, training.run_loop, cache, tmp_path / "run", DP2, settings):
        assert name == "CheckpointError" and f"the disk is full: {small_disk}/run-" in message
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.name != "filled"]
