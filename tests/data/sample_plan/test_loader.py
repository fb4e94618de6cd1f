import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import pytest
import torch

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.errors import ClipError, DataError, StallError
from cosmos_data.manifests.clip import Pictures
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.loader import VideoBatches
from cosmos_data.sample_plan.order import rank_slice
from cosmos_data.sample_plan.plan import Part, SamplePlan

CONFIG = DataConfig(manifest="m.parquet", num_frames=5, height_px=48, width_px=64)


def plan_of(clips: Manifest, **changes) -> SamplePlan:
    return SamplePlan([Part(clips)], 0, replace(CONFIG, **changes))


def steps(num_steps: int, global_batch_size: int = 6, rank: int = 0, num_ranks: int = 1) -> list[range]:
    return [rank_slice(step, global_batch_size, rank, num_ranks) for step in range(num_steps)]


@pytest.mark.parametrize(("prefetch_batches", "num_threads"), [(1, 1), (8, 1), (1, 4), (8, 4)])
def test_order_and_content_do_not_depend_on_prefetching_or_workers(mjpeg, prefetch_batches, num_threads):
    plan = plan_of(mjpeg, prefetch_batches=prefetch_batches)
    batches = list(VideoBatches(plan, PyAVDecoder(num_threads), steps(5)))
    assert [[s.index for s in batch.samples] for batch in batches] == [list(indices) for indices in steps(5)]
    for batch in batches:
        expected = PyAVDecoder(1).decode([plan.sample(s.index) for s in batch.samples])
        assert torch.equal(batch.pixels_B3THW, expected)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_make_up_the_batch_of_one(mjpeg, num_ranks):
    plan = plan_of(mjpeg)
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
    copy = Manifest.read(tmp_path / "packed" / "manifest.arrow")
    for row in (3, 7):
        path = Path(copy[row].path)
        path.write_bytes(path.read_bytes()[:6000])
    return copy


def test_a_bad_clip_is_replaced_and_named(two_damaged):
    plan = plan_of(two_damaged, max_bad_share=0.2)
    loader = VideoBatches(plan, PyAVDecoder(2), steps(4))
    batches = list(loader)
    bad_ids = {two_damaged[3].clip_id, two_damaged[7].clip_id}
    assert set(loader.bad_clips) == {two_damaged[3].digest, two_damaged[7].digest}
    assert all(two_damaged[row].path in loader.bad_clips[two_damaged[row].digest].reason for row in (3, 7))
    samples = list(chain.from_iterable(batch.samples for batch in batches))
    assert [sample.index for sample in samples] == list(range(24))
    for sample in samples:
        assert sample.clip.clip_id not in bad_ids
        replaced = plan.sample(sample.index).clip.clip_id in bad_ids
        assert (sample.attempt > 0) == replaced
        assert sample == plan.sample(sample.index, sample.attempt)
    assert sum(sample.attempt > 0 for sample in samples) >= 4  # two clips in each of two epochs


def test_replacements_do_not_depend_on_what_was_seen_before(two_damaged):
    """A run that resumes at step 2 sees what the uninterrupted run saw."""
    plan = plan_of(two_damaged, max_bad_share=0.2)
    whole = list(VideoBatches(plan, PyAVDecoder(2), steps(4)))
    resumed = list(VideoBatches(plan, PyAVDecoder(2), steps(4)[2:]))
    for first, second in zip(whole[2:], resumed, strict=True):
        assert first.samples == second.samples
        assert torch.equal(first.pixels_B3THW, second.pixels_B3THW)


def test_too_many_bad_clips_stop_the_run(two_damaged):
    loader = VideoBatches(plan_of(two_damaged, max_bad_share=0.1), PyAVDecoder(2), steps(4))
    with pytest.raises(DataError, match=r"2 of 12 clips.*max_bad_share=0\.1") as caught:
        list(loader)
    assert two_damaged[3].clip_id in str(caught.value)
    assert two_damaged[7].clip_id in str(caught.value)


class NothingDecodes:
    def decode(self, samples):
        raise ClipError("always", position=len(samples) - 1)


def test_no_clip_at_all(mjpeg):
    with pytest.raises(DataError, match="no clip can be decoded"):
        list(VideoBatches(plan_of(mjpeg, max_bad_share=1.0), NothingDecodes(), steps(1)))


class SlowDecoder:
    """Counts what it was asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def decode(self, samples):
        self.calls += 1
        time.sleep(0.05)
        return torch.zeros(len(samples), 3, 5, 48, 64, dtype=torch.uint8)


def test_waiting_is_measured(mjpeg):
    loader = VideoBatches(plan_of(mjpeg), SlowDecoder(), steps(4))
    waits = [batch.wait_sec for batch in loader]
    assert sum(waits) == pytest.approx(loader.total_wait_sec)
    assert loader.total_wait_sec > 0.08  # 4 times 0.05 s, two at a time


def test_batches_are_decoded_while_the_step_runs(mjpeg):
    decoder = SlowDecoder()
    iterator = iter(VideoBatches(plan_of(mjpeg, prefetch_batches=3), decoder, steps(50)))
    next(iterator)
    deadline = time.monotonic() + 60
    while decoder.calls < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert decoder.calls == 4  # the one handed out and three ahead, no more


def test_stopping_early_drops_what_was_asked_for_ahead(mjpeg):
    decoder = SlowDecoder()
    threads = threading.active_count()
    iterator = iter(VideoBatches(plan_of(mjpeg, prefetch_batches=30), decoder, steps(50)))
    next(iterator)
    iterator.close()
    assert decoder.calls < 20
    assert threading.active_count() == threads


def test_bad_clips_are_written_down_and_can_be_left_out(two_damaged, tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    loader = VideoBatches(plan_of(two_damaged, max_bad_share=0.2), PyAVDecoder(2), steps(4), quarantine=path)
    list(loader)
    named = {json.loads(line)["digest"] for line in path.read_text(encoding="utf-8").splitlines()}
    assert named == {two_damaged[3].digest, two_damaged[7].digest}
    clean = VideoBatches(plan_of(two_damaged, quarantine=str(path), max_bad_share=0.0), PyAVDecoder(2), steps(4))
    assert all(sample.attempt == 0 for sample in chain.from_iterable(batch.samples for batch in clean))


def test_impossible_conditions_are_replaced_without_decoding(mjpeg):
    """25 fps, 30 frames: 30 actions; this one has 29."""
    action = Action(names=("x",), units=("m",), rate_hz=mjpeg[5].fps, frame_of_reference="base", values=(0.0,) * 29)
    clips = Manifest((*mjpeg.clips[:5], replace(mjpeg[5], action=action), *mjpeg.clips[6:]))
    loader = VideoBatches(plan_of(clips, max_bad_share=0.1), PyAVDecoder(2), steps(2))
    samples = list(chain.from_iterable(batch.samples for batch in loader))
    assert clips[5].clip_id not in {sample.clip.clip_id for sample in samples}
    assert "29 values; 30 steps" in loader.bad_clips[clips[5].digest].reason


def test_memory_is_bounded_and_changes_nothing(mjpeg):
    size = 6 * 3 * 5 * 48 * 64
    free = VideoBatches(plan_of(mjpeg, prefetch_batches=8), PyAVDecoder(2), steps(12))
    free_batches = [batch.pixels_B3THW for batch in free]
    assert free.most_bytes_ahead == 9 * size
    big = plan_of(mjpeg, prefetch_batches=8, height_px=64, width_px=96, num_frames=20, memory_mib=8)
    tight = VideoBatches(big, PyAVDecoder(2), steps(6))
    assert [batch.samples[0].index for batch in tight] == [0, 6, 12, 18, 24, 30]
    assert tight.most_bytes_ahead == 3 * (6 * 3 * 20 * 64 * 96) <= 8 * 2**20
    with pytest.raises(DataError, match=r"a batch of 60 windows takes 21 MiB, more than data\.memory_mib=8"):
        list(VideoBatches(big, PyAVDecoder(2), steps(1, 60)))
    assert len(free_batches) == 12


def test_a_stalled_decoder_is_named(mjpeg, tmp_path):
    """A pipe that nobody writes to: opening it never returns."""
    os.mkfifo(tmp_path / "pipe.avi")
    stuck = replace(mjpeg[2], path=str(tmp_path / "pipe.avi"))
    clips = Manifest((*mjpeg.clips[:2], stuck, *mjpeg.clips[3:]))
    loader = VideoBatches(plan_of(clips), PyAVDecoder(2, stall_sec=1.0), steps(3))
    with pytest.raises(StallError, match=rf"stall_sec=1 s at {re.escape(stuck.clip_id)} \(.*pipe\.avi"):
        list(loader)
    with (tmp_path / "pipe.avi").open("wb"):
        pass  # lets the thread end


def test_views_are_decoded_side_by_side(mjpeg):
    side = Pictures(**{f.name: getattr(mjpeg[1], f.name) for f in fields(Pictures)} | {"view": "side"})
    clips = Manifest((replace(mjpeg[0], view="front", views=(side,)),))
    plan = plan_of(clips)
    [batch] = VideoBatches(plan, PyAVDecoder(2), steps(1, 2), views=(0, 1))
    assert [(s.index, s.clip.view) for s in batch.samples] == [(0, "front"), (0, "side"), (1, "front"), (1, "side")]
    alone = PyAVDecoder(1).decode([plan.sample(1, view=1)])
    assert torch.equal(batch.pixels_B3THW[3:], alone)


def digests_of(loader: VideoBatches) -> list[str]:
    samples = chain.from_iterable(batch.samples for batch in loader)
    return [f"{sample.clip.digest}/{sample.start_frame}/{sample.flip}" for sample in samples]


def read_until_killed(plan: SamplePlan, lists: list[range], out: Path) -> None:
    with out.open("a", encoding="utf-8") as file:
        for batch in VideoBatches(plan, PyAVDecoder(2), lists):
            for sample in batch.samples:
                file.write(f"{sample.clip.digest}/{sample.start_frame}/{sample.flip}\n")
            file.flush()
    time.sleep(600)


def test_a_killed_reader_resumes_with_the_next_sample(two_damaged, tmp_path):
    """kill -9, then as 3 ranks, then as 2, with other numbers of threads and batches ahead."""
    plan = plan_of(two_damaged, max_bad_share=0.2, prefetch_batches=1)
    whole = digests_of(VideoBatches(plan, PyAVDecoder(1), steps(8)))
    process = multiprocessing.get_context("fork").Process(
        target=read_until_killed, args=(plan, steps(3), tmp_path / "log")
    )
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().splitlines()) < 18:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    seen = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    for first, last, num_ranks, prefetch in ((3, 5, 3, 8), (5, 8, 2, 1)):
        ahead = plan_of(two_damaged, max_bad_share=0.2, prefetch_batches=prefetch)
        of_rank = [
            digests_of(VideoBatches(ahead, PyAVDecoder(5), steps(8, 6, rank, num_ranks)[first:last]))
            for rank in range(num_ranks)
        ]
        share = 6 // num_ranks
        for step in range(last - first):
            for part in of_rank:
                seen += part[step * share : (step + 1) * share]
    assert seen == whole
