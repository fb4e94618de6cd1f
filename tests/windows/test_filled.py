"""A world model's run that encodes its windows itself, keeps them, and finds them again: the same bits each way."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_world, training
from support.filled_run import kept_windows, make_run, settings, trained, write_inputs, write_tokenizer
from support.footage import CARPHONE, FOOTAGE
from support.ranks import RankPool
from support.tiny_tokenizer import DISCRETE

from cosmos_data.config import DataConfig
from cosmos_data.manifests.build import build_manifest
from cosmos_tok.whitening import LatentStatistics, load_statistics, save_statistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import LatentsConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.loop import DONE, STOPPED
from cosmos_train.windows.kept import OF_KIND, STATISTICS
from cosmos_train.windows.source import open_source


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
    [
        ParallelConfig(tp=2, sequence_parallel=True),
        ParallelConfig(cp=2, cp_min_tokens=1),
        ParallelConfig(pp=2),
        ParallelConfig(pp=2, pp_chunks=2),
        ParallelConfig(),
    ],
    ids=["tp2", "cp2", "pp2", "pp2 interleaved", "dp2"],
)
def test_ranks_share_the_work_and_see_what_one_process_sees(
    ranks: Callable[[int], RankPool], alone: Path, inputs: Path, tmp_path: Path, parallel: ParallelConfig
):
    """Images and videos: each window is encoded once, by any rank, and whitened with the same statistics."""
    asked = settings(inputs, tmp_path / "cache", image_share=0.5, images_per_video=2)
    found = ranks(2).run(training.run_loop, tmp_path / "cache", tmp_path / "divided", parallel, asked, {})
    assert found == [DONE, DONE]
    for name in OF_KIND.values():
        for tensor in ("mean_CT", "std_CT"):
            of_one, of_two = (getattr(load_statistics(run / name), tensor) for run in (alone, tmp_path / "divided"))
            assert torch.equal(of_one, of_two)
    single, divided = trained(alone), trained(tmp_path / "divided")
    for step, record in divided.items():
        assert record["loss"] == pytest.approx(single[step]["loss"], rel=2e-4)
    assert len(divided) == 3


@pytest.fixture(scope="module")
def alone(ranks: Callable[[int], RankPool], inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process: videos, images, videos."""
    folder = tmp_path_factory.mktemp("alone")
    asked = settings(inputs, folder / "cache", image_share=0.5, images_per_video=2)
    assert ranks(1).run(training.run_loop, folder / "cache", folder / "run", ParallelConfig(), asked, {}) == [DONE]
    return folder / "run"


def test_images_are_frames_of_the_clips_with_statistics_of_their_own(inputs: Path, tmp_path: Path):
    run = dataclasses.replace(
        make_run(inputs, tmp_path / "cache", tmp_path / "run"), image_share=0.5, images_per_video=3
    )
    source = open_source(run, init.start(run.parallel, seed=0), lambda facts: None)
    video, image = source.batches([[0, 1], [4, 5]])
    assert (video.kind, image.kind) == ("video", "image")
    assert [window.z_CTHW.shape for window in image.windows] == [(4, 1, 4, 6)] * 6
    assert all(window.caption == "a red ball" and window.text_SE.any() for window in (*video.windows, *image.windows))
    of_kind = {kind: facts.statistics for kind, facts in source.facts.items()}
    assert of_kind["video"] is not None and of_kind["image"] is not None
    assert of_kind["video"].mean_CT.shape == (4, 3) and of_kind["image"].mean_CT.shape == (4, 1)
    first = torch.stack([window.z_CTHW for window in image.windows[:4]])
    torch.testing.assert_close(of_kind["image"].mean_CT, first.double().mean(dim=(0, 3, 4)).float())


def test_a_step_has_one_size_and_every_clip_its_own(inputs: Path, tmp_path: Path):
    """Buckets: of two aspect ratios, each clip as often as its share, and in the layout of its bucket."""
    for path in (CARPHONE, FOOTAGE / "bikes.mp4"):
        (tmp_path / path.name).symlink_to(path)
    manifest = build_manifest(tmp_path, clip_frames=30, heldout_every=99).manifest
    manifest.write(tmp_path / "two.arrow")
    data = DataConfig(
        manifest=str(tmp_path / "two.arrow"), num_frames=1, height_px=256, width_px=256, buckets="256", resize="pad"
    )
    run = dataclasses.replace(make_run(inputs, tmp_path / "cache", tmp_path / "run"), data=data)
    source = open_source(run, init.start(run.parallel, seed=0), lambda facts: None)
    shapes = source.facts["video"].shapes
    assert shapes.keys() == {(4, 1, 32, 40), (4, 1, 24, 40)} and sum(shapes.values()) == 1
    steps = [{window.z_CTHW.shape for window in batch.windows} for batch in source.batches([range(4), range(4, 8)])]
    assert all(len(of_step) == 1 for of_step in steps)
    padded = next(source.batches([range(4)])).windows[0].padding_1HW
    assert 0 < padded.mean() < 1 and padded.shape[1:] == steps[0].pop()[2:]


def test_settings_that_do_not_fit(inputs: Path, tmp_path: Path):
    sections = settings(inputs, tmp_path / "cache")["run"]
    run = tiny_world.make_run(tmp_path / "cache", tmp_path / "run", ParallelConfig())
    with pytest.raises(ConfigError, match=r"latents\.image_folder=images is a finished cache, .* leave it out"):
        dataclasses.replace(
            run, **sections | {"latents": dataclasses.replace(sections["latents"], image_folder="images")}
        )
    with pytest.raises(ConfigError, match=r"latents\.max_gib=0 must be greater than 0"):
        LatentsConfig(folder="f", tokenizer="t", max_gib=0)
    latents = dataclasses.replace(sections["latents"], tokenizer=str(write_tokenizer(tmp_path / "codes", DISCRETE)))
    mesh = init.start(run.parallel, seed=0)
    with pytest.raises(ConfigError, match=r"latents\.tokenizer=.* gives codes, and a diffusion model .* use one"):
        WorldDiTTask(dataclasses.replace(run, **sections | {"latents": latents}), mesh)


def test_a_run_goes_on_with_what_it_began_with(run: Runner, inputs: Path, tmp_path: Path):
    """Other statistics in its folder, or another tokenizer, are refused."""
    whole = run(tmp_path / "cache", tmp_path / "whole")
    run(tmp_path / "cache", tmp_path / "stopped", stop_at_step=2)
    other = LatentStatistics(torch.ones(4, 3), torch.full((4, 3), 2.0))
    save_statistics(tmp_path / "stopped" / STATISTICS, other)
    with pytest.raises(AssertionError, match="was trained on data with digest"):
        run(tmp_path / "cache", tmp_path / "stopped")
    shutil.copy(tmp_path / "whole" / STATISTICS, tmp_path / "stopped")
    assert run(tmp_path / "cache", tmp_path / "stopped") == whole
    begun = make_run(inputs, tmp_path / "cache", tmp_path / "stopped", tokenizer="other_tokenizer")
    with pytest.raises(ConfigError, match=r"tokenizer=.* has digest .* began with [0-9a-f]{12}; name that tokenizer"):
        WorldDiTTask(begun, init.start(begun.parallel, seed=0))


def test_settings_of_a_run_that_goes_on_are_those_it_began_with(run: Runner, inputs: Path, tmp_path: Path):
    """Of one that was stopped before its first checkpoint none counts: it begins again, with statistics of its own."""
    run(tmp_path / "cache", tmp_path / "begun", stop_at_step=2)
    mesh = init.start(ParallelConfig(), seed=0)
    begun = make_run(inputs, tmp_path / "cache", tmp_path / "begun")
    other = dataclasses.replace(begun, data=dataclasses.replace(begun.data, frame_stride=2))
    with pytest.raises(ConfigError, match=r"data\.frame_stride=2, but .*begun began with 1; set that, or start"):
        open_source(other, mesh, lambda facts: None)
    exact = dataclasses.replace(begun, text=dataclasses.replace(begun.text, precision="bf16"))
    with pytest.raises(ConfigError, match=r"text\.precision=bf16, but .*begun began with fp32; set that"):
        open_source(exact, mesh, lambda facts: None)

    fewer = dataclasses.replace(begun.latents, statistics_windows=2)
    again = dataclasses.replace(
        begun,
        latents=fewer,
        run_dir=str(tmp_path / "elsewhere"),
        checkpoint=dataclasses.replace(begun.checkpoint, resume_from=begun.run_dir),
    )
    source, resumed = (open_source(one, mesh, lambda facts: None) for one in (begun, again))
    assert source.digest == resumed.digest, "it whitens as the run that it goes on with"

    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    new = open_source(dataclasses.replace(other, latents=fewer), mesh, lambda facts: None)
    statistics = new.facts["video"].statistics
    assert statistics is not None and statistics.metadata["num_windows"] == "2"


def test_what_does_not_fit_is_told_before_a_window_is_encoded(inputs: Path, tmp_path: Path):
    run = make_run(inputs, tmp_path / "cache", tmp_path / "run")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, latent_channels=3))
    with pytest.raises(ConfigError, match=r"model\.latent_channels=3, but latents\.tokenizer=.* has 4; set 4"):
        WorldDiTTask(run, init.start(run.parallel, seed=0))
    assert not kept_windows(tmp_path / "cache")
