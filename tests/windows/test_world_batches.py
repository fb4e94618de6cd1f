"""Images and videos by plan, each with its own statistics, noise and masks; the same numbers in every layout."""

import dataclasses
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_world, training
from support.latent_cache import LatentWriter
from support.ranks import RankPool

from cosmos_data.caches.latents import LatentMetadata
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import LatentsConfig, WorldDiTRun
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.loop import DONE
from cosmos_train.windows.cached import CachedWindows, open_cached
from cosmos_train.windows.kept import STATISTICS
from cosmos_train.windows.source import WindowSource
from cosmos_train.windows.stream import Kind
from cosmos_train.windows.world_batches import WorldBatch, WorldBatches, check_condition_frames

IMAGES = (4, 1, 4, 6)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "videos")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same random numbers, whitened by other statistics."""
    folder = tiny_world.write_cache(tmp_path_factory.mktemp("latents") / "images", shape_CTHW=IMAGES)
    save_statistics(folder / STATISTICS, LatentStatistics(torch.full((4, 1), -1.0), torch.full((4, 1), 3.0)))
    return folder


def joint(videos: Path, images: Path, **settings: Any) -> WorldDiTRun:
    """Every second step is of images, three in the place of each video."""
    run = tiny_world.make_run(videos, Path("unused"), ParallelConfig(), num_steps=8)
    sections = {"image_share": 0.5, "images_per_video": 3, "latents": latents(videos, images)}
    return dataclasses.replace(run, **sections | settings)


def open_batches(run: WorldDiTRun) -> tuple[dict[Kind, CachedWindows], Callable[[list[int]], WorldBatch]]:
    """(the streams, sample indices -> their batch)."""
    streams = open_cached(run)
    batches = WorldBatches(run, WindowSource(run, streams), torch.device("cpu"))
    return streams, lambda indices: next(batches.batches([indices]))


def latents(videos: Path, images: Path | None) -> LatentsConfig:
    return LatentsConfig(folder=str(videos), tokenizer="unused", image_folder=None if images is None else str(images))


def test_steps_alternate_by_their_number(videos: Path, images: Path):
    _, load = open_batches(joint(videos, images))
    kinds = [[load([4 * step + i]).kind for i in range(4)] for step in range(8)]
    assert all(len(set(of_step)) == 1 for of_step in kinds), "all samples of a step are of one kind"
    assert [of_step[0] for of_step in kinds] == ["video", "image"] * 4


def test_each_kind_has_its_statistics_and_size(videos: Path, images: Path):
    streams, load = open_batches(joint(videos, images))
    video, image = load([0, 1]), load([4, 5])
    assert video.x0_BCTHW.shape == (2, *tiny_world.SHAPE_CTHW) and image.x0_BCTHW.shape == (6, *IMAGES)
    assert len(image.fps_B) == len(image.text_BSE) == len(image.padding_B1HW) == 6
    stored = streams["image"].at(0).z_CTHW
    torch.testing.assert_close(image.x0_BCTHW[0], (stored + 1) / 3 * 0.5)
    stored = streams["video"].at(1).z_CTHW
    torch.testing.assert_close(video.x0_BCTHW[1], (stored - 0.5) / 2 * 0.5)


def test_an_image_is_neither_conditioned_nor_noised_as_a_video(videos: Path, images: Path):
    run = joint(videos, images, image_share=0.999)
    _, load = open_batches(run)
    of_images = [load([4 * step]).draw for step in range(1, 200)]
    assert not any(draw.num_condition_frames_B.any() for draw in of_images)
    sigma = torch.cat([draw.sigma_B for draw in of_images]).log()
    assert sigma.mean().item() == pytest.approx(0, abs=0.15), "sqrt(T) is 1"


def test_every_epoch_visits_every_image_once(videos: Path, images: Path):
    """Nine images, of which a step has twelve: three steps are four epochs."""
    _, load = open_batches(joint(videos, images))
    seen = [load([4 * step + i]).x0_BCTHW for step, i in product((1, 3, 5), range(4))]
    _, counts = torch.cat(seen).flatten(1).unique(dim=0, return_counts=True)
    assert counts.tolist() == [4] * 9


def test_without_images_samples_are_where_they_were(videos: Path):
    run = tiny_world.make_run(videos, Path("unused"), ParallelConfig())
    streams, load = open_batches(run)
    for index in (0, 7, 30):
        stored = streams["video"].at(index).z_CTHW
        torch.testing.assert_close(load([index]).x0_BCTHW[0], (stored - 0.5) / 2 * 0.5)
    assert WindowSource(run, streams).digest == streams["video"].store.digest


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(),
        ParallelConfig(tp=2, sequence_parallel=True),
        ParallelConfig(pp=2, recompute="full"),
        ParallelConfig(cp=2, cp_min_tokens=10),
    ],
)
def test_metrics_of_joint_training_are_the_same_in_every_layout(
    ranks: Callable[[int], RankPool], videos: Path, images: Path, tmp_path: Path, parallel: ParallelConfig
):
    """Loss, errors by kind and by noise level, and every block's activations and gradients."""
    settings = {
        "num_steps": 4,
        "block_stats_every_steps": 2,
        "run": {"image_share": 0.5, "images_per_video": 3, "latents": latents(videos, images)},
    }
    single, divided = tmp_path / "single", tmp_path / "divided"
    assert ranks(1).run(training.run_loop, videos, single, ParallelConfig(), settings) == [DONE]
    assert ranks(2).run(training.run_loop, videos, divided, parallel, settings) == [DONE, DONE]
    wanted, found = training.steps(single), training.steps(divided)
    for step in range(1, 5):
        names = wanted[step].keys()
        assert found[step].keys() == names
        assert sum(name.startswith("blocks/") for name in names) == (0 if step % 2 else 2 * 4)
        assert ("error_of/image" in names) == (step % 2 == 0) and ("error_of/video" in names) == (step % 2 == 1)
        assert any(name.startswith("error_by_sigma/") for name in names)
        for name in names:
            assert found[step][name] == pytest.approx(wanted[step][name], rel=2e-4), f"step {step}, {name}"


def write_padded(folder: Path) -> Path:
    """Windows of 32 x 48 pixels, 4 x 6 cells, of a picture with padding above, below and to its right."""
    metadata = LatentMetadata(
        tokenizer_digest="0", text_encoder="t", manifest_digest="1", window_frames=17, height_px=32, width_px=48
    )
    writer = LatentWriter(folder, metadata)
    writer.add_text("", torch.ones(2, tiny_world.MODEL.text_width))
    z = torch.randn(2, *tiny_world.SHAPE_CTHW)
    writer.add_clip("a", z, [0, 8], split="train", caption="", fps=24.0, inner_px=(8, 0, 15, 40))
    writer.add_clip("b", z, [0, 8], split="train", caption="", fps=24.0)
    writer.finish()
    save_statistics(folder / STATISTICS, LatentStatistics(torch.zeros(4, 3), torch.ones(4, 3)))
    return folder


def test_padding_reaches_the_batch(tmp_path: Path):
    run = tiny_world.make_run(write_padded(tmp_path / "padded"), Path("unused"), ParallelConfig())
    streams, load = open_batches(run)
    masks = {streams["video"].number(i): load([i]).padding_B1HW[0, 0] for i in range(4)}
    expected = torch.ones(4, 6)
    expected[1:3, :5] = 0  # rows from pixel 8 and 16, of 8 to 22; columns from pixel 0 to 32, of 0 to 39
    assert torch.equal(masks[0], expected) and not masks[2].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_share": 0.0}, "image_share=0.0 and latents.image_folder=.* belong together"),
        ({"image_share": 1.0}, "image_share=1.0 must be at least 0 and less than 1"),
        ({"images_per_video": 0}, "images_per_video=0 must be at least 1"),
    ],
)
def test_settings_that_do_not_fit(videos: Path, images: Path, change: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        joint(videos, images, **change)


def test_caches_that_do_not_fit(videos: Path, images: Path):
    with pytest.raises(ConfigError, match=r"3 latent frames, not images; tokenize it with data\.num_frames=1"):
        open_batches(joint(videos, videos))
    run = joint(videos, images)
    streams, _ = open_batches(run)
    run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, max_condition_frames=3))
    with pytest.raises(ConfigError, match=r"max_condition_frames=3, .* have 3 latent frames .* use at most 2"):
        check_condition_frames(run, streams["video"].facts)
