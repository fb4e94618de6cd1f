"""Moving averages against their closed forms, of the optimizer's weights in every layout, and widths made later."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from support import averages, tiny_world, training
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import SNAPSHOTS, read_progress
from cosmos_train.train.config import OptimConfig
from cosmos_train.train.ema import Plain, PowerLaw, Snapshot, gamma_of, profiles, reconstruction, width_of

NUM_STEPS = 1000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "cache")


def weights_of_steps(profile: Plain | PowerLaw, num_steps: int) -> np.ndarray:
    """How much of each step's weights is in the average after the last one, by doing every update."""
    found = np.zeros(num_steps)
    for step in range(1, num_steps + 1):
        found *= profile.keep(step)
        found[step - 1] = 1 - profile.keep(step)
    return found


# The formulas.


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_are_those_of_the_paper(sigma_rel: float, gamma: float):
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.1, 0.25])
def test_a_power_law_counts_steps_by_its_profile(sigma_rel: float):
    found, gamma = weights_of_steps(PowerLaw(sigma_rel), NUM_STEPS), gamma_of(sigma_rel)
    time = np.arange(NUM_STEPS + 1) / NUM_STEPS
    assert found == pytest.approx(np.diff(time ** (gamma + 1)), abs=1e-12)
    middle = (time[1:] + time[:-1]) / 2
    mean = (found * middle).sum()
    assert math.sqrt((found * (middle - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-2)


def test_a_plain_average_forgets_at_a_constant_rate():
    found = weights_of_steps(Plain(0.9), 50)
    assert found == pytest.approx(0.1 * 0.9 ** np.arange(49, -1, -1))


def test_a_kept_snapshot_is_its_own_reconstruction():
    kept = [Snapshot(step, sigma_rel) for step, sigma_rel in product((250, 500, 1000), (0.05, 0.1))]
    factors, missed = reconstruction(kept, kept[-1])
    assert factors == pytest.approx([0, 0, 0, 0, 0, 1], abs=1e-6) and missed < 1e-6


@pytest.mark.parametrize(("sigma_rel", "step"), [(0.075, 1000), (0.15, 1000), (0.06, 750)])
def test_other_widths_and_steps_follow_from_snapshots(sigma_rel: float, step: int):
    """Of a random walk, whose averages of different widths are far from each other."""
    walk = np.cumsum(np.random.default_rng(0).normal(size=(NUM_STEPS, 50)), axis=0)

    def average(of: Snapshot) -> np.ndarray:
        return weights_of_steps(PowerLaw(of.sigma_rel), of.step) @ walk[: of.step]

    kept = [Snapshot(at, width) for at, width in product(range(50, NUM_STEPS + 1, 50), (0.05, 0.1))]
    wanted = Snapshot(step, sigma_rel)
    factors, missed = reconstruction(kept, wanted)
    assert missed < 0.02 and sum(factors) == pytest.approx(1, abs=1e-3)
    made = np.array(factors) @ np.stack([average(each) for each in kept])
    nearest = min(np.abs(average(each) - average(wanted)).max() for each in kept)
    assert np.abs(made - average(wanted)).max() < 0.1 * nearest


def test_few_snapshots_say_how_much_they_miss():
    _, missed = reconstruction([Snapshot(1000, 0.05)], Snapshot(1000, 0.2))
    assert missed > 0.3


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.2887, 1.0])
def test_widths_that_no_power_law_has(sigma_rel: float):
    with pytest.raises(ValueError, match=rf"^sigma_rel={sigma_rel} is no width"):
        gamma_of(sigma_rel)
    with pytest.raises(ValueError, match=r"^optim\.ema_sigma_rels\[1\]=.* must be greater than 0 and less than 0\.288"):
        OptimConfig(lr=1.0, ema_sigma_rels=(0.1, sigma_rel))


def test_names_in_checkpoints():
    kept = profiles(OptimConfig(lr=1.0, ema_decay=0.9, ema_sigma_rels=(0.05, 1e-3)))
    assert [profile.key for profile in kept] == ["ema", "ema@0,05", "ema@0,001"]
    assert [width_of(profile.key) for profile in kept[1:]] == [0.05, 0.001]
    with pytest.raises(ValueError, match="twice"):
        OptimConfig(lr=1.0, ema_sigma_rels=(0.1, 0.1))


# Of a model under the engine.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(tp=2), ParallelConfig(pp=2)])
def test_averaged_are_the_weights_that_the_optimizer_updates(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, parallel: ParallelConfig, precision: str
):
    """bf16 has 8 bits: after six small updates most of its weights have not moved, the fp32 ones have."""
    for errors in ranks(2).run(averages.errors, cache, tmp_path, parallel, precision):
        assert errors["average"] < 1e-6
        assert errors["held"] == errors["of"], "each rank averages what it updates, no more"
        assert (errors["average of the model's own weights"] > 1e-4) == (precision == "bf16")


KEPT = {"num_steps": 24, "checkpoint": {"every_steps": 24}}
WIDTHS = {"ema_sigma_rels": (0.1, 0.2), "lr": 1e-2}


@pytest.fixture(scope="module")
def single(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process that keeps two widths, with a snapshot after every second step."""
    run_dir = tmp_path_factory.mktemp("single")
    return kept_run(ranks(1), cache, run_dir, ParallelConfig(), {"ema_snapshot_every_steps": 2})


def kept_run(
    pool: RankPool, cache: Path, run_dir: Path, parallel: ParallelConfig, optim: dict | None = None, **settings
) -> Path:
    """A run of 24 steps, or on to them, that leaves snapshots after 12 and 24 unless `optim` says otherwise."""
    optim = WIDTHS | {"ema_snapshot_every_steps": 12} | (optim or {})
    pool.run(training.run_loop, cache, run_dir, parallel, KEPT | {"optim": optim} | settings)
    return run_dir


def assert_same_snapshot(ranks: Callable[[int], RankPool], name: str, single: Path, run_dir: Path):
    of_single, found = (ranks(1).run(averages.stored, run / SNAPSHOTS / name)[0] for run in (single, run_dir))
    assert found.keys() == of_single.keys()
    for tensor_name, tensor in found.items():
        torch.testing.assert_close(tensor, of_single[tensor_name], rtol=1e-3, atol=2e-5, msg=tensor_name)


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(tp=2, sequence_parallel=True),
        pytest.param(ParallelConfig(pp=2, pp_chunks=2), marks=pytest.mark.long),
        pytest.param(ParallelConfig(cp=2), marks=pytest.mark.long),
    ],
)
def test_snapshots_are_the_same_in_every_layout(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, parallel: ParallelConfig, single: Path
):
    kept_run(ranks(2), cache, tmp_path, parallel)
    for name in ("step-00000012", "step-00000024"):
        assert_same_snapshot(ranks, name, single, tmp_path)


def test_averages_go_on_in_another_layout(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, single: Path):
    kept_run(ranks(2), cache, tmp_path, ParallelConfig(tp=2), stop_at_step=5)
    assert not (tmp_path / SNAPSHOTS).exists()
    kept_run(ranks(2), cache, tmp_path, ParallelConfig())
    names = [folder.name for folder in sorted((tmp_path / SNAPSHOTS).iterdir())]
    assert names == ["step-00000012", "step-00000024"]
    assert_same_snapshot(ranks, names[-1], single, tmp_path)


def test_a_width_made_later_is_the_one_that_was_not_kept(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, single: Path
):
    other = kept_run(ranks(1), cache, tmp_path / "other", ParallelConfig(), {"ema_sigma_rels": (0.15,)})
    [truth] = ranks(1).run(averages.stored, other / SNAPSHOTS / "step-00000024")
    [nearest] = ranks(1).run(averages.stored, single / SNAPSHOTS / "step-00000024")
    [made] = ranks(1).run(averages.made, cache, single, tmp_path / "made", 0.15)
    error = averages.distance(made, truth, "ema@0,15")
    assert error < 0.05 * averages.distance(made, nearest, "ema@0,1") and error < 1e-3
    assert read_progress(tmp_path / "made").step == 24


@pytest.mark.parametrize(
    ("step", "said"), [(3, "none of step 3: there are 2, 4,"), (None, "train with optim.ema_sigma_rels")]
)
def test_without_snapshots_there_is_nothing_to_make(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, single: Path, step: int | None, said: str
):
    run_dir = tmp_path if step is None else single
    [(name, message)] = ranks(1).run(training.failure_of, averages.made, cache, run_dir, tmp_path / "made", 0.15, step)
    assert name == "CheckpointError" and said in message
