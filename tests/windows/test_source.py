"""What a window is, the plan decides: whether it lies in a finished cache or is encoded now, all of it is the same."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.filled_run import encode_share, make_run, write_inputs, write_two_aspects

from cosmos_data.caches.latents import LatentStore
from cosmos_data.config import DataConfig
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.parallel import init
from cosmos_train.windows.cached import CachedWindows
from cosmos_train.windows.filled import plan_filled
from cosmos_train.windows.source import open_source
from cosmos_train.windows.stream import stack_latents


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> WorldDiTRun:
    """Of a wide clip with an action and of three others, two of which have a camera; one of these is held out."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "inputs").mkdir()
    run = make_run(write_inputs(folder / "inputs"), folder / "cache", folder / "run", fill=False, planned_per_clip=2)
    manifest = str(write_two_aspects(folder))
    data = DataConfig(manifest=manifest, num_frames=5, height_px=32, width_px=48, resize="pad", num_workers=2)
    return dataclasses.replace(run, data=data)


def filling(run: WorldDiTRun, folder: Path) -> WorldDiTRun:
    """The same run, which encodes its windows itself."""
    latents = dataclasses.replace(run.latents, fill=True, folder=str(folder / "filled"))
    return dataclasses.replace(run, latents=latents, run_dir=str(folder / "run"))


def test_a_window_is_the_same_from_a_finished_cache_and_from_one_that_fills(run: WorldDiTRun, tmp_path: Path):
    """Latents, text, rate, padding, caption, and conditions, which each of the three clips has others of."""
    encode_share(run)
    cached = CachedWindows(run.latents.folder, run.seed, step_size=1)
    numbers = {cached.number(place): place for place in range(6)}
    described = {number: cached.store.describe(number) for number in numbers}
    by_window = {(one.clip_id, one.start_frame): numbers[number] for number, one in described.items()}
    filled_run = filling(run, tmp_path)
    [filled] = plan_filled(filled_run, init.start(run.parallel, seed=0)).values()
    for place, [window] in enumerate(filled.windows([[place] for place in range(6)])):
        sample = filled.plan.sample(place)
        other = cached.at(by_window[sample.clip.clip_id, sample.start_frame])
        torch.testing.assert_close(window.z_CTHW, other.z_CTHW, rtol=1e-4, atol=1e-5)
        length = min(len(window.text_SE), len(other.text_SE))
        torch.testing.assert_close(window.text_SE[:length], other.text_SE[:length], rtol=1e-4, atol=1e-5)
        assert torch.equal(window.padding_1HW, other.padding_1HW) and window.padding_1HW.any()
        assert (window.fps, window.caption, window.conditions) == (other.fps, other.caption, other.conditions)
    kinds = [(one.conditions.camera is None, one.conditions.action is None) for one in described.values()]
    assert Counter(kinds) == {(True, False): 2, (True, True): 2, (False, True): 2}


def test_steps_of_a_finished_cache_have_one_shape_and_epochs_every_window(run: WorldDiTRun, tmp_path: Path):
    """Two windows of a wide clip and four of others: of three steps of two windows one is wide."""
    data = dataclasses.replace(run.data, height_px=256, width_px=256, buckets="256")
    latents = dataclasses.replace(run.latents, folder=str(tmp_path / "cache"))
    train = dataclasses.replace(run.train, global_batch_size=2)
    run = dataclasses.replace(run, data=data, latents=latents, train=train)
    encode_share(run)
    source = open_source(run, init.start(run.parallel, seed=0), lambda facts: None)
    wide, high = LatentStore(tmp_path / "cache").shapes
    shares = source.facts["video"].shapes
    assert (float(shares[wide]), float(shares[high])) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    batches = list(source.batches([range(step * 2, step * 2 + 2) for step in range(6)]))
    shapes = [tuple(stack_latents(batch.windows).shape[1:]) for batch in batches]
    assert Counter(shapes) == {wide: 2, high: 4}
    videos = source.streams["video"]
    assert isinstance(videos, CachedWindows)
    epochs = [[videos.number(place) for place in range(first, first + 6)] for first in (0, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(6))] * 2 and epochs[0] != epochs[1]
