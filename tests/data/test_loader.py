import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.decode import PyAVDecoder
from cosmos_data.errors import ClipError, DataError
from cosmos_data.loader import VideoBatches
from cosmos_data.manifest import Manifest
from cosmos_data.plan import SamplePlan, rank_slice

CONFIG = DataConfig(manifest="m.parquet", num_frames=5, height_px=48, width_px=64)


def steps(num_steps: int, global_batch_size: int = 6, rank: int = 0, num_ranks: int = 1) -> list[range]:
    return [rank_slice(step, global_batch_size, rank, num_ranks) for step in range(num_steps)]


@pytest.mark.parametrize(("prefetch_batches", "num_threads"), [(1, 1), (8, 1), (1, 4), (8, 4)])
def test_order_and_content_do_not_depend_on_prefetching_or_workers(mjpeg, prefetch_batches, num_threads):
    plan = SamplePlan(mjpeg, 0, CONFIG)
    batches = list(VideoBatches(plan, PyAVDecoder(num_threads), steps(5), prefetch_batches=prefetch_batches))
    assert [[s.index for s in batch.samples] for batch in batches] == [list(indices) for indices in steps(5)]
    for batch in batches:
        expected = PyAVDecoder(1).decode([plan.sample(s.index) for s in batch.samples])
        assert torch.equal(batch.pixels_B3THW, expected)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_make_up_the_batch_of_one(mjpeg, num_ranks):
    plan = SamplePlan(mjpeg, 0, CONFIG)
    whole = [batch.pixels_B3THW for batch in VideoBatches(plan, PyAVDecoder(2), steps(2))]
    parts = [
        [batch.pixels_B3THW for batch in VideoBatches(plan, PyAVDecoder(2), steps(2, rank=r, num_ranks=num_ranks))]
        for r in range(num_ranks)
    ]
    for step in range(2):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole[step])


@pytest.fixture
def two_damaged(mjpeg, tmp_path) -> Manifest:
    """The packed manifest of 12 clips, of which rows 3 and 7 were cut off after the manifest was written."""
    shutil.copytree(Path(mjpeg[0].path).parent, tmp_path / "packed")
    copy = Manifest.read(tmp_path / "packed" / "manifest.parquet")
    for row in (3, 7):
        path = Path(copy[row].path)
        path.write_bytes(path.read_bytes()[:6000])
    return copy


def test_a_bad_clip_is_replaced_and_named(two_damaged):
    plan = SamplePlan(two_damaged, 0, CONFIG)
    loader = VideoBatches(plan, PyAVDecoder(2), steps(4), max_bad_share=0.2)
    batches = list(loader)
    bad_ids = {two_damaged[3].clip_id, two_damaged[7].clip_id}
    assert set(loader.bad_clips) == bad_ids
    assert all(two_damaged[row].path in loader.bad_clips[two_damaged[row].clip_id].reason for row in (3, 7))
    samples = [sample for batch in batches for sample in batch.samples]
    assert [sample.index for sample in samples] == list(range(24))
    for sample in samples:
        assert sample.clip.clip_id not in bad_ids
        replaced = plan.sample(sample.index).clip.clip_id in bad_ids
        assert (sample.attempt > 0) == replaced
        assert sample == plan.sample(sample.index, sample.attempt)
    assert sum(sample.attempt > 0 for sample in samples) >= 4  # two clips in each of two epochs


def test_replacements_do_not_depend_on_what_was_seen_before(two_damaged):
    """A run that resumes at step 2 sees what the uninterrupted run saw."""
    plan = SamplePlan(two_damaged, 0, CONFIG)
    whole = list(VideoBatches(plan, PyAVDecoder(2), steps(4), max_bad_share=0.2))
    resumed = list(VideoBatches(plan, PyAVDecoder(2), steps(4)[2:], max_bad_share=0.2))
    for first, second in zip(whole[2:], resumed, strict=True):
        assert first.samples == second.samples
        assert torch.equal(first.pixels_B3THW, second.pixels_B3THW)


def test_too_many_bad_clips_stop_the_run(two_damaged):
    loader = VideoBatches(SamplePlan(two_damaged, 0, CONFIG), PyAVDecoder(2), steps(4), max_bad_share=0.1)
    with pytest.raises(DataError, match=r"2 of 12 clips.*max_bad_share=0\.1") as caught:
        list(loader)
    assert two_damaged[3].clip_id in str(caught.value)
    assert two_damaged[7].clip_id in str(caught.value)


class NothingDecodes:
    def decode(self, samples):
        raise ClipError("always", position=len(samples) - 1)


def test_no_clip_at_all(mjpeg):
    with pytest.raises(DataError, match="no clip can be decoded"):
        list(VideoBatches(SamplePlan(mjpeg, 0, CONFIG), NothingDecodes(), steps(1), max_bad_share=1.0))


class SlowDecoder:
    """Counts what it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def decode(self, samples):
        self.calls += 1
        time.sleep(0.05)
        return torch.zeros(len(samples), 3, 5, 48, 64, dtype=torch.uint8)


def test_waiting_is_measured(mjpeg):
    loader = VideoBatches(SamplePlan(mjpeg, 0, CONFIG), SlowDecoder(), steps(4))
    waits = [batch.wait_sec for batch in loader]
    assert sum(waits) == pytest.approx(loader.total_wait_sec)
    assert loader.total_wait_sec > 0.15


def test_batches_are_decoded_while_the_step_runs(mjpeg):
    decoder = SlowDecoder()
    iterator = iter(VideoBatches(SamplePlan(mjpeg, 0, CONFIG), decoder, steps(50), prefetch_batches=3))
    next(iterator)
    deadline = time.monotonic() + 60
    while decoder.calls < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert decoder.calls == 4  # the one handed out and three ahead, no more


def test_stopping_early_drops_what_was_asked_for_ahead(mjpeg):
    decoder = SlowDecoder()
    threads = threading.active_count()
    iterator = iter(VideoBatches(SamplePlan(mjpeg, 0, CONFIG), decoder, steps(50), prefetch_batches=30))
    next(iterator)
    iterator.close()
    assert decoder.calls < 20
    assert threading.active_count() == threads


def test_no_prefetching(mjpeg):
    with pytest.raises(DataError, match="prefetch_batches=0"):
        VideoBatches(SamplePlan(mjpeg, 0, CONFIG), NothingDecodes(), steps(1), prefetch_batches=0)
