"""A world model's run that encodes its windows itself, keeps them, and finds them again: the same bits each way."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_world, training
from support.filled_run import kept_windows, make_run, settings, trained, write_inputs, write_tokenizer
from support.ranks import RankPool
from support.tiny_tokenizer import DISCRETE

from cosmos_data.config import DataConfig
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import LatentsConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.filled_windows import require_kept
from cosmos_train.recipes.kept_statistics import STATISTICS, training_statistics
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.loop import DONE, STOPPED


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


Runner = Callable[[Path, Path], dict[int, dict[str, float]]]


@pytest.fixture
def run(ranks: Callable[[int], RankPool], inputs: Path) -> Runner:
    """(cache, run folder) -> what was logged, of one process."""

    def run_once(
        cache: Path, run_dir: Path, stop_at_step: int | None = None, **changes: Any
    ) -> dict[int, dict[str, float]]:
        asked = settings(inputs, cache, **changes) | {"stop_at_step": stop_at_step}
        found = ranks(1).run(training.run_loop, cache, run_dir, ParallelConfig(), asked, {})
        assert found == [DONE if stop_at_step is None else STOPPED]
        return trained(run_dir)

    return run_once


def test_hits_misses_and_mixed_batches_train_alike_bit_for_bit(run: Runner, tmp_path: Path):
    missed = run(tmp_path / "cache", tmp_path / "missed")
    kept = kept_windows(tmp_path / "cache")
    assert len(kept) == 12
    assert run(tmp_path / "cache", tmp_path / "hit") == missed
    assert kept_windows(tmp_path / "cache") == kept, "nothing is written twice"


def test_another_tokenizer_never_hits(run: Runner, tmp_path: Path):
    first = run(tmp_path / "cache", tmp_path / "first")
    other = run(tmp_path / "cache", tmp_path / "other", tokenizer="other_tokenizer")
    assert len(kept_windows(tmp_path / "cache")) == 24
    assert all(first[step]["loss"] != other[step]["loss"] for step in first)


def test_a_limit_changes_nothing_but_the_folder(run: Runner, tmp_path: Path):
    """Nor does it that some windows are found then and others are not."""
    free = run(tmp_path / "cache", tmp_path / "free")
    limit = sum(path.stat().st_size for path in (tmp_path / "cache" / "filled").iterdir())
    assert run(tmp_path / "small", tmp_path / "limited", max_gib=limit / 2**30) == free
    assert sum(path.stat().st_size for path in (tmp_path / "small" / "filled").iterdir()) <= limit
    assert 0 < len(kept_windows(tmp_path / "small")) < 12
    assert run(tmp_path / "small", tmp_path / "mixed") == free
    assert kept_windows(tmp_path / "small").keys() == kept_windows(tmp_path / "cache").keys()


@pytest.mark.parametrize(
    "parallel",
    [ParallelConfig(tp=2, sequence_parallel=True), ParallelConfig(cp=2, cp_min_tokens=1)],
)
def test_one_rank_of_a_replica_encodes_for_all(
    ranks: Callable[[int], RankPool], run: Runner, inputs: Path, tmp_path: Path, parallel: ParallelConfig
):
    """The others have no encoder at all, and the loss is that of one process."""
    single = run(tmp_path / "cache", tmp_path / "single")
    divided = settings(inputs, tmp_path / "new_cache")
    found = ranks(2).run(training.run_loop, tmp_path / "new_cache", tmp_path / "divided", parallel, divided, {})
    assert found == [DONE, DONE]
    assert kept_windows(tmp_path / "new_cache").keys() == kept_windows(tmp_path / "cache").keys()
    for step, record in trained(tmp_path / "divided").items():
        assert record["loss"] == pytest.approx(single[step]["loss"], rel=2e-4)


def test_settings_that_do_not_fit(inputs: Path, tmp_path: Path):
    sections = settings(inputs, tmp_path / "cache")["run"]
    run = tiny_world.make_run(tmp_path / "cache", tmp_path / "run", ParallelConfig())
    with pytest.raises(ConfigError, match=r"latents\.fill=true encodes videos of one size, but .* data\.buckets=256"):
        dataclasses.replace(
            run,
            **sections | {"data": DataConfig(manifest="m", num_frames=9, height_px=256, width_px=256, buckets="256")},
        )
    with pytest.raises(ConfigError, match=r"parallel\.pp=2, but with latents\.fill=true .* use pp=1"):
        dataclasses.replace(run, **sections | {"parallel": ParallelConfig(pp=2)})
    with pytest.raises(ConfigError, match=r"latents\.max_gib=0 must be greater than 0"):
        LatentsConfig(folder="f", tokenizer="t", max_gib=0)
    latents = dataclasses.replace(sections["latents"], tokenizer=str(write_tokenizer(tmp_path / "codes", DISCRETE)))
    mesh = init.start(run.parallel, seed=0)
    with pytest.raises(ConfigError, match=r"latent_channels=4, but latents\.tokenizer=.* is discrete and has 2"):
        WorldDiTTask(dataclasses.replace(run, **sections | {"latents": latents}), mesh)


def test_a_run_goes_on_with_the_statistics_that_it_began_with(run: Runner, inputs: Path, tmp_path: Path):
    """Also where those of the cache are other ones by now; with another tokenizer it does not go on."""
    other = LatentStatistics(torch.ones(4, 3), torch.full((4, 3), 2.0))
    whole = run(tmp_path / "cache", tmp_path / "whole")
    run(tmp_path / "cache", tmp_path / "stopped", stop_at_step=2)
    save_statistics(tmp_path / "cache" / STATISTICS, other)
    assert run(tmp_path / "cache", tmp_path / "stopped") == whole
    begun, new = (make_run(inputs, tmp_path / "cache", tmp_path / name) for name in ("stopped", "new"))
    assert not training_statistics(begun).mean_CT.any()
    assert torch.equal(training_statistics(new).std_CT, other.std_CT)
    with pytest.raises(
        ConfigError, match=r"tokenizer=.* has digest ffff.* began with [0-9a-f]{12}; name that tokenizer"
    ):
        require_kept(begun, "f" * 64)
