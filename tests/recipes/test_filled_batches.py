"""A world model's run that encodes its windows itself, keeps them, and finds them again: the same bits each way."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_t5, tiny_world, training
from support.footage import CARPHONE
from support.ranks import RankPool
from support.tiny_tokenizer import CONTINUOUS, DISCRETE

from cosmos_data.build import build_manifest
from cosmos_data.config import DataConfig
from cosmos_tok.config import TextConfig, TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import LatentsConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.filled_batches import FilledBatches
from cosmos_train.train.loop import DONE


def write_tokenizer(folder: Path, config: TokenizerConfig = CONTINUOUS, seed: int = 0) -> Path:
    """Random weights; of 9 frames of 32 x 48 it makes the latents of the tiny world model, [4, 3, 4, 6]."""
    torch.manual_seed(seed)
    tokenizer = CausalVideoTokenizer(config)
    tokenizer.init_weights()
    save_tokenizer(folder, tokenizer, config, {}, statistics=LatentStatistics(torch.zeros(4, 3), torch.ones(4, 3)))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """footage.parquet of three training clips, one with a caption; tokenizer, other_tokenizer, t5."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "t5").mkdir()
    tiny_t5.write_t5(folder / "t5")
    (folder / "videos").mkdir()
    (folder / "videos" / "carphone.mp4").symlink_to(CARPHONE)
    (folder / "videos" / "carphone.txt").write_text("a red ball")
    build_manifest(folder / "videos", clip_frames=30, heldout_every=4)[0].write(folder / "footage.parquet")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "other_tokenizer", seed=1)
    return folder


def settings(inputs: Path, cache: Path, tokenizer: str = "tokenizer", **latents: Any) -> dict[str, Any]:
    """Three steps of four windows, and sections that replace those of the tiny world model."""
    data = DataConfig(manifest=str(inputs / "footage.parquet"), num_frames=9, height_px=32, width_px=48, num_workers=2)
    section = LatentsConfig(folder=str(cache), tokenizer=str(inputs / tokenizer), fill=True, **latents)
    run = {"data": data, "latents": section, "text": TextConfig(encoder=str(inputs / "t5"), max_tokens=8)}
    return {"num_steps": 3, "run": run}


def windows(cache: Path) -> dict[str, int]:
    """Name of each kept window -> when it was written."""
    return {path.name: path.stat().st_ino for path in (cache / "windows").glob("*/*.safetensors")}


def trained(run_dir: Path) -> dict[int, dict[str, float]]:
    """Of each step what depends on the data and the weights alone."""
    return {
        step: {name: record[name] for name in ("loss", "error", "grad_norm")}
        for step, record in training.steps(run_dir).items()
    }


Runner = Callable[[Path, Path], dict[int, dict[str, float]]]


@pytest.fixture
def run(ranks: Callable[[int], RankPool], inputs: Path) -> Runner:
    """(cache, run folder) -> what was logged, of one process."""

    def run_once(cache: Path, run_dir: Path, **changes: Any) -> dict[int, dict[str, float]]:
        found = ranks(1).run(
            training.run_loop, cache, run_dir, ParallelConfig(), settings(inputs, cache, **changes), {}
        )
        assert found == [DONE]
        return trained(run_dir)

    return run_once


def test_hits_misses_and_mixed_batches_train_alike_bit_for_bit(run: Runner, tmp_path: Path):
    missed = run(tmp_path / "cache", tmp_path / "missed")
    kept = windows(tmp_path / "cache")
    assert len(kept) == 12
    assert run(tmp_path / "cache", tmp_path / "hit") == missed
    assert windows(tmp_path / "cache") == kept, "nothing is written twice"
    shutil.copytree(tmp_path / "cache", tmp_path / "mixed_cache")
    for path in sorted((tmp_path / "mixed_cache" / "windows").glob("*/*.safetensors"))[::2]:
        path.unlink()
    assert run(tmp_path / "mixed_cache", tmp_path / "mixed") == missed
    assert windows(tmp_path / "mixed_cache").keys() == kept.keys()


def test_another_tokenizer_never_hits(run: Runner, tmp_path: Path):
    first = run(tmp_path / "cache", tmp_path / "first")
    other = run(tmp_path / "cache", tmp_path / "other", tokenizer="other_tokenizer")
    assert len(windows(tmp_path / "cache")) == 24
    assert all(first[step]["loss"] != other[step]["loss"] for step in first)


def test_a_limit_changes_nothing_but_the_folder(run: Runner, tmp_path: Path):
    free = run(tmp_path / "cache", tmp_path / "free")
    size = next((tmp_path / "cache" / "windows").glob("*/*.safetensors")).stat().st_size
    assert run(tmp_path / "small", tmp_path / "limited", max_gib=5 * size / 2**30) == free
    assert 0 < len(windows(tmp_path / "small")) <= 5


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
    assert windows(tmp_path / "new_cache").keys() == windows(tmp_path / "cache").keys()
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
    with pytest.raises(ConfigError, match=r"latents\.max_gib=0 is no size"):
        LatentsConfig(folder="f", tokenizer="t", max_gib=0)
    latents = dataclasses.replace(sections["latents"], tokenizer=str(write_tokenizer(tmp_path / "codes", DISCRETE)))
    mesh = init.start(run.parallel, seed=0)
    with pytest.raises(ConfigError, match=r"latent_channels=4, but latents\.tokenizer=.* is discrete and has 2"):
        FilledBatches(dataclasses.replace(run, **sections | {"latents": latents}), mesh)
