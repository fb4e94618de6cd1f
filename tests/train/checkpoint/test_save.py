"""A save that is interrupted anywhere leaves the one before; one beside training holds what it began with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import killed, saving, tiny_world, training
from support.footage import carphone_clips
from support.killed import Kill
from support.ranks import RankPool

from cosmos_train.objectives.config import ReconstructionConfig
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import DIGESTS, MARKER, damage_of, digest_of, list_checkpoints, step_of
from cosmos_train.train.config import CheckpointConfig, OptimConfig
from cosmos_train.train.loop import DONE

ONE, DP2 = ParallelConfig(), ParallelConfig()
EVERY_TWO = {"every_steps": 2, "keep_last": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


@pytest.fixture(scope="module")
def uninterrupted(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on one process that saves while it stands still."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    settings = {"num_steps": 6, "checkpoint": EVERY_TWO}
    assert ranks(1).run(training.run_loop, cache, run_dir, ONE, settings) == [DONE]
    return run_dir


def files_of(folder: Path) -> dict[str, int]:
    """What ranks wrote of a checkpoint, by its size."""
    return {path.name: path.stat().st_size for path in folder.glob("*.distcp")}


def test_saved_beside_training_is_what_is_saved_standing_still(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, uninterrupted: Path
):
    run_dir, staging = tmp_path / "run", tmp_path / "local"
    settings = {"num_steps": 6, "checkpoint": EVERY_TWO | {"asynchronous": True, "staging_dir": str(staging)}}
    assert ranks(1).run(training.run_loop, cache, run_dir, ONE, settings) == [DONE]
    assert [step_of(folder) for folder in list_checkpoints(run_dir)] == [2, 4, 6]
    for mine, theirs in zip(list_checkpoints(run_dir), list_checkpoints(uninterrupted), strict=True):
        assert damage_of(mine) == [] and files_of(mine) == files_of(theirs)
        for name in files_of(mine):
            assert digest_of(mine / name) == digest_of(theirs / name), "the step's own weights and moments, bit for bit"
    for event in training.events(run_dir):
        assert event["event"] != "save" or 0 < event["blocked_sec"] < event["total_sec"]
    assert not [path for path in staging.rglob("*") if path.is_file()]


NUM_STEPS = 20


def clips_run(**checkpoint: Any) -> dict[str, Any]:
    """Of clips that are cropped and mirrored at random, images and videos in turn, with all kinds of averages."""
    return {
        "train": {"num_steps": NUM_STEPS, "global_batch_size": 2},
        "image_share": 0.5,
        "loss": ReconstructionConfig(),
        "statistics_windows": 0,
        "optim": OptimConfig(
            lr=1e-3,
            warmup_steps=5,
            decay="cosine",
            ema_decay=0.5,
            ema_sigma_rels=(0.1,),
            ema_snapshot_every_steps=NUM_STEPS,
        ),
        "checkpoint": CheckpointConfig(**checkpoint),
    }


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carphone_clips(tmp_path_factory.mktemp("footage"))


@pytest.fixture(scope="module")
def whole(ranks: Callable[[int], RankPool], manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of two ranks that nothing happens to."""
    run_dir = tmp_path_factory.mktemp("whole")
    assert ranks(2).run(killed.run, None, manifest, run_dir, clips_run(every_steps=NUM_STEPS)) == [DONE, DONE]
    return run_dir


STANDING_STILL = [Kill("bytes", rank=1), Kill("prune"), Kill("seal")]
BESIDE_TRAINING = [Kill("bytes", rank=1), Kill("copy")]
AT_RANDOM = [Kill("plan", rank=1), Kill("copy"), *(Kill("random", rank=seed % 2, seed=seed) for seed in range(1, 9))]


@pytest.mark.parametrize(
    ("asynchronous", "kills"),
    [
        pytest.param(False, STANDING_STILL, id="standing still", marks=pytest.mark.long),
        pytest.param(True, BESIDE_TRAINING, id="beside training"),
        pytest.param(False, AT_RANDOM, id="standing still, at random", marks=pytest.mark.long),
        pytest.param(True, AT_RANDOM, id="beside training, at random", marks=pytest.mark.long),
    ],
)
def test_killed_again_and_again_a_run_ends_as_if_nothing_had_happened(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, whole: Path, asynchronous: bool, kills: list[Kill]
):
    """Each start of two ranks finds what the one before left, and all that is left in the end is the run."""
    run_dir, staging, steps = tmp_path / "run", tmp_path / "local", [0]
    saving = {"keep_last": 1, "asynchronous": asynchronous, "staging_dir": str(staging)}
    settings = clips_run(every_steps=1, **saving)
    for kill in kills:
        pool = RankPool(2)
        with pytest.raises((EOFError, ConnectionError, AssertionError)):  # of the killed rank, or of the other one
            pool.run(killed.run, kill, manifest, run_dir, settings)
        pool.close()
        [*_, newest] = list_checkpoints(run_dir)
        assert damage_of(newest) == [], kill
        assert step_of(newest) > steps[-1] or kill.phase == "random", kill
        steps.append(step_of(newest))
        partial = newest.with_name(f"step-{steps[-1] + 1:08d}.partial")
        staged = {path.name.split("-")[-1]: path.stat().st_size for path in staging.rglob("*") if path.is_file()}
        left = [*files_of(partial).items(), *staged.items()]
        if kill.phase == "bytes":
            assert len(left) > 0 and sum(size for _, size in left) < sum(files_of(newest).values()), (kill, left)
        elif kill.phase == "copy":
            assert staged and files_of(partial), kill
        elif kill.phase == "seal":
            assert (partial / MARKER).is_file() and (partial / DIGESTS).is_file()
        elif kill.phase == "prune":
            assert list(newest.parent.glob("*.partial")), "an older one, half removed"
    assert ranks(2).run(killed.run, None, manifest, run_dir, clips_run(every_steps=NUM_STEPS, **saving)) == [DONE, DONE]
    assert training.steps(run_dir) == training.steps(whole)
    for name in ("checkpoints", "ema"):
        [mine], [theirs] = ([*(run / name).iterdir()] for run in (run_dir, whole))
        assert mine.name == theirs.name == f"step-{NUM_STEPS:08d}"
        files = files_of(theirs)
        assert files and [digest_of(mine / file) for file in files] == [digest_of(theirs / file) for file in files]
    assert not [path for path in staging.rglob("*") if path.is_file()]


def test_ranks_write_equally_many_bytes(ranks: Callable[[int], RankPool], tmp_path: Path):
    """Of a model one of whose parameters is larger than all others together."""
    shapes = {"large": (1000, 300), "middle": (7, 11, 13), "small": (5,), "row": (1, 40000), "single": ()}
    ranks(4).run(saving.save_unlike_sizes, tmp_path, shapes)
    [folder] = list_checkpoints(tmp_path)
    for kind in ("weights", "optimizer"):
        sizes = [size for name, size in files_of(folder).items() if name.startswith(kind)]
        assert len(sizes) == 4 and max(sizes) < 1.05 * min(sizes), sizes


def test_what_is_due_after_one_step_is_written_one_after_the_other(ranks: Callable[[int], RankPool], tmp_path: Path):
    """The second folder is begun while nothing is written yet; those of the next step wait for both."""
    for begun in ranks(2).run(saving.save_twice_a_step, tmp_path, DP2):
        assert begun[:2] == [(1, []), (2, [])]
        assert begun[2] == (1, ["a-1", "b-1"]) and begun[3][0] <= 2
        assert begun[4] == (0, ["a-1", "a-2", "b-1", "b-2"])
    for number, name in enumerate(("a-1", "b-1", "a-2", "b-2"), start=1):
        assert damage_of(tmp_path / name) == []
        [found] = ranks(1).run(saving.read, tmp_path / name, ["value"])
        assert (found["value"] == number).all(), "as it was when its save began"
