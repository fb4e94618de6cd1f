"""Whitening statistics after training: of windows and of images, beside the weights, from any number of ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import tiny_tokenizer
from support.footage import carphone_clips
from support.ranks import RankPool
from support.tiny_tokenizer import CONTINUOUS, DISCRETE, make_run

from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.sample_plan.plan import SamplePlan, read_parts
from cosmos_tok.model import to_unit_range
from cosmos_tok.store import IMAGE_STATISTICS, STATISTICS, load_tokenizer
from cosmos_tok.whitening import LatentStatistics, load_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.objectives.config import ReconstructionConfig
from cosmos_train.recipes.tokenizer import EXPORT
from cosmos_train.train.loop import DONE

SHORT = {"loss": ReconstructionConfig(), "train": {"num_steps": 1}, "statistics_windows": 5}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carphone_clips(tmp_path_factory.mktemp("footage"))


def both(run_dir: Path) -> tuple[LatentStatistics, LatentStatistics]:
    return load_statistics(run_dir / EXPORT / STATISTICS), load_statistics(run_dir / EXPORT / IMAGE_STATISTICS)


def test_they_are_those_of_the_exported_tokenizers_latents(
    ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path
):
    assert ranks(2).run(tiny_tokenizer.run_loop, manifest, tmp_path, SHORT) == [DONE, DONE]
    model, _ = load_tokenizer(tmp_path / EXPORT)
    run = make_run(manifest, tmp_path)
    parts = read_parts(run.data, "train")
    for found, num_frames in zip(both(tmp_path), (5, 1), strict=True):
        data = replace(run.data, num_frames=num_frames)
        plan = SamplePlan(parts, 0, data)
        with torch.inference_mode():
            pixels = PyAVDecoder(1).decode([plan.sample(index) for index in range(5)])
            z = model.encode(to_unit_range(pixels)).double()
        latent_frames = CONTINUOUS.latent_frames(num_frames)
        assert found.mean_CT.shape == (4, latent_frames)
        torch.testing.assert_close(found.mean_CT, z.mean(dim=(0, 3, 4)).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.std_CT, z.std(dim=(0, 3, 4), unbiased=False).float(), rtol=1e-3, atol=1e-5)
        assert found.metadata["manifest_digest"] == plan.digest and found.metadata["num_windows"] == "5"


def test_one_process_finds_the_same(ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path):
    for number in (1, 2):
        ranks(number).run(tiny_tokenizer.run_loop, manifest, tmp_path / str(number), SHORT)
    for one, two in zip(both(tmp_path / "1"), both(tmp_path / "2"), strict=True):
        torch.testing.assert_close(one.mean_CT, two.mean_CT, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.std_CT, two.std_CT, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"tokenizer": DISCRETE}, {"statistics_windows": 0}],
    ids=["codes", "none asked for"],
)
def test_there_are_none_of(ranks: Callable[[int], RankPool], manifest: Path, tmp_path: Path, settings: dict):
    assert ranks(1).run(tiny_tokenizer.run_loop, manifest, tmp_path, SHORT | settings) == [DONE]
    assert sorted(path.name for path in (tmp_path / EXPORT).iterdir()) == ["config.json", "model.safetensors"]


def test_a_negative_number_is_refused(manifest: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="statistics_windows=-1 must be at least 0"):
        make_run(manifest, tmp_path, statistics_windows=-1)
