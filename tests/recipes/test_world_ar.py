"""A run of an autoregressive world model: it learns, resumes on another layout, and says what it can not read."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_ar, tiny_world
from support.ranks import RankPool

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import LatentsConfig, WorldARRun
from cosmos_train.footprint import make_plan
from cosmos_train.models.world_ar.flops import world_ar_cost
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.step_metrics import values_of
from cosmos_train.recipes.world_ar import check_fits, num_tokens, step_cost
from cosmos_train.windows.cached import CachedWindows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ar.write_cache(tmp_path_factory.mktemp("codes") / "cache", shape_THW=(3, 2, 3))


def test_it_learns_what_it_sees(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path):
    """Twelve windows of random codes, again and again: at first every code is as likely as any other."""
    [losses] = ranks(1).run(losses_of, cache, tmp_path, 60)
    assert losses[0] == pytest.approx(torch.tensor(32.0).log().item(), rel=0.25)
    assert losses[-1] < 0.5 * losses[0]


def losses_of(cache: Path, run_dir: Path, num_steps: int) -> list[float]:
    run = tiny_ar.make_run(cache, run_dir, ParallelConfig(), micro_batch_size=4)
    return [metrics["nll"] for metrics in metrics_of(run, num_steps)]


def metrics_of(run: WorldARRun, num_steps: int) -> list[dict[str, float]]:
    """Of each step."""
    results = tiny_world.train_steps(run, *tiny_world.start(run), num_steps, lr=1e-2)
    return [result.metrics | values_of(result.ratios) for result in results]


LAYOUTS: dict[str, dict[str, Any]] = {
    "dp": {},
    "tp, sequence parallel": {"tp": 2, "sequence_parallel": True},
    "pp": {"pp": 2},
    "cp": {"cp": 2},
    "cp, not for images": {"cp": 2, "cp_min_tokens": 10},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_between_videos(layout: str, ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path):
    """Every second step is of images, two in a video's place: alike in every layout, with all that is said of them."""
    images = tiny_ar.write_cache(tmp_path / "images", shape_THW=(1, 2, 3))
    [alone] = ranks(1).run(joint_metrics, cache, images, tmp_path, ParallelConfig())
    for step, metrics in enumerate(alone):
        by_frame = {f"perplexity_by_frame/{frame}" for frame in range(3)}
        wanted = {"perplexity_of/image"} if step % 2 else by_frame
        assert {name for name in metrics if name.startswith("perplexity")} == wanted
        assert metrics["accuracy"] <= 1 and 0 < metrics["code_usage"] <= 1 < metrics["code_perplexity"] <= 32
    assert alone[1]["nll"] == pytest.approx(math.log(alone[1]["perplexity_of/image"]), rel=1e-5), "no code is given"
    for found in ranks(2).run(joint_metrics, cache, images, tmp_path, ParallelConfig(**LAYOUTS[layout])):
        for metrics, wanted in zip(found, alone, strict=True):
            assert metrics == pytest.approx(wanted, rel=1e-4)


def joint_metrics(cache: Path, images: Path, run_dir: Path, parallel: ParallelConfig) -> list[dict[str, float]]:
    run = tiny_ar.make_run(cache, run_dir, parallel)
    latents = replace(run.latents, image_folder=str(images))
    return metrics_of(replace(run, latents=latents, image_share=0.5, images_per_video=2), 4)


def test_work_of_images(cache: Path, tmp_path: Path):
    """The mean of both kinds of step."""
    run = replace(
        tiny_ar.make_run(cache, tmp_path, ParallelConfig()),
        latents=LatentsConfig(folder="a", tokenizer="b", image_folder="c"),
        image_share=0.25,
        images_per_video=3,
    )
    sizes = {"text_tokens": run.text.max_tokens}
    videos = world_ar_cost(run.model, batch=4, num_tokens=18, **sizes).training
    images = world_ar_cost(run.model, batch=12, num_tokens=6, **sizes).training
    shapes = {"video": {(1, 3, 2, 3): Fraction(1)}, "image": {(1, 1, 2, 3): Fraction(1)}}
    found = step_cost(run, shapes).training  # pyright: ignore[reportArgumentType] literals
    assert found.total == pytest.approx(0.75 * videos.total + 0.25 * images.total, rel=1e-6)


@pytest.mark.parametrize(("begin_token", "tokens"), [(True, 18), (False, 17)])
def test_tokens_of_a_sample(begin_token: bool, tokens: int):
    assert num_tokens(replace(tiny_ar.MODEL, begin_token=begin_token), (3, 2, 3)) == tokens


def test_latents_are_not_codes(cache: Path, tmp_path: Path):
    latents = CachedWindows(str(tiny_world.write_cache(tmp_path / "latents")), 0, step_size=1).facts
    with pytest.raises(ConfigError, match=r"gives latents of 4 channels, and an autoregressive model reads the codes"):
        check_fits(tiny_ar.MODEL, latents)
    codes = CachedWindows(str(cache), 0, step_size=1).facts
    check_fits(tiny_ar.MODEL, codes)
    with pytest.raises(ConfigError, match=r"^model.vocab_size=4, but .* has code \d+; set the product of"):
        check_fits(replace(tiny_ar.MODEL, vocab_size=4), codes)
    with pytest.raises(ConfigError, match=r"^model.text_width=9, but .* has 8; set 8"):
        check_fits(replace(tiny_ar.MODEL, text_width=9), codes)


def test_what_its_ranks_would_hold():
    """Of the released 4B on 17 frames, before there is a cache: 3 x 40 x 64 codes, the last of which is only said."""
    run = load_run("run/pretrain/world_ar_4b_17_frames")
    plan = make_plan(run, 8)
    assert plan.parameters == 4_014_088_192
    assert plan.sample is not None and (plan.sample.tokens, plan.sample.text_tokens) == (7679, 0)
    [kind] = plan.kinds
    assert (kind.blocks, kind.tokens) == (16, 7680 // 2)
    assert plan.step_flops is not None and run.train.global_batch_size == 512
    # 6 operations a weight and token, the table of codes apart, and attention of every token to every other.
    weights = (plan.parameters - 64_000 * 4096) * 6 * 7679 * 512
    assert plan.step_flops.gemm == pytest.approx(weights, rel=1e-4)
    assert plan.step_flops.attention == 3 * 4 * 7679**2 * 32 * 128 * 16 * 512
