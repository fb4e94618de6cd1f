from dataclasses import fields, replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import CLIP

from cosmos_data.config import SIZES_PX, DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Pictures
from cosmos_data.manifests.conditions import Action, CaptionWindow
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.order import rank_slice
from cosmos_data.sample_plan.plan import Part, SamplePlan, cover_windows
from cosmos_data.sample_plan.window import inner_box, largest_box, nearest_bucket, span_frames


def manifest_of(num_clips: int) -> Manifest:
    return Manifest(tuple(replace(CLIP, clip_id=str(row)) for row in range(num_clips)))


def config_of(**changes) -> DataConfig:
    return DataConfig(**({"manifest": "m.parquet", "num_frames": 9, "height_px": 64, "width_px": 96} | changes))


def test_sample_is_a_pure_function():
    clips, config = manifest_of(7), config_of()
    forward = [SamplePlan([Part(clips)], 3, config).sample(i) for i in range(40)]
    plan = SamplePlan([Part(clips)], 3, config)
    assert [plan.sample(i) for i in reversed(range(40))] == forward[::-1]
    assert [SamplePlan([Part(clips)], 4, config).sample(i) for i in range(40)] != forward
    recaptioned = Manifest((replace(clips[0], caption="other"), *clips.clips[1:]))
    assert [s.start_frame for s in map(SamplePlan([Part(recaptioned)], 3, config).sample, range(40))] != [
        s.start_frame for s in forward
    ]


def test_draws_stay_the_same_between_versions():
    """A checkpoint's position means these samples. Should this fail, raise SAMPLE_ORDER, or old runs resume on other
    data."""
    plan = SamplePlan([Part(manifest_of(5))], 0, config_of(resize="crop"))
    drawn = [(s.clip.clip_id, s.start_frame, s.box.top_px, s.box.left_px, s.flip) for s in map(plan.sample, range(5))]
    assert drawn == [
        ("3", 109, 12, 4, True),
        ("4", 128, 2, 61, False),
        ("0", 118, 14, 29, False),
        ("2", 102, 26, 52, False),
        ("1", 126, 3, 71, True),
    ]


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 2**40), attempt=st.integers(0, 6), resize=st.sampled_from(["crop", "resize_crop"]))
def test_windows_stay_inside_their_clip(index, attempt, resize):
    config = config_of(num_frames=5, frame_stride=3, resize=resize)
    sample = SamplePlan([Part(manifest_of(3))], 1, config).sample(index, attempt)
    assert 100 <= sample.start_frame <= 100 + 40 - 13
    assert 0 <= sample.box.top_px <= 90 - sample.box.height_px
    assert 0 <= sample.box.left_px <= 200 - sample.box.width_px
    assert sample.fps == 10.0


def test_every_window_and_offset_is_drawn_about_equally_often():
    plan = SamplePlan([Part(manifest_of(1))], 5, config_of(num_frames=37, height_px=90, width_px=198, resize="crop"))
    samples = [plan.sample(i) for i in range(4000)]
    for values, outcomes in (
        ([s.start_frame - 100 for s in samples], 4),
        ([s.box.left_px for s in samples], 3),
        ([int(s.flip) for s in samples], 2),
    ):
        expected = 4000 / outcomes
        counts = np.bincount(values, minlength=outcomes)
        assert len(counts) == outcomes
        assert np.abs(counts - expected).max() < 5 * expected**0.5
    assert {s.box.top_px for s in samples} == {0}


def test_no_flip_on_request():
    plan = SamplePlan([Part(manifest_of(2))], 0, config_of(flip=False))
    assert not any(plan.sample(i).flip for i in range(50))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_ranks_share_one_global_batch(num_ranks):
    for step in (0, 5):
        slices = [rank_slice(step, 24, rank, num_ranks) for rank in range(num_ranks)]
        assert list(chain.from_iterable(slices)) == list(range(step * 24, step * 24 + 24))


def test_ranks_that_do_not_divide_the_batch():
    with pytest.raises(DataError, match="global_batch_size=24 is not divisible by the 5"):
        rank_slice(0, 24, 0, 5)


def test_replacements_walk_through_the_epoch():
    plan = SamplePlan([Part(manifest_of(6))], 2, config_of())
    candidates = [plan.sample(8, attempt).clip.clip_id for attempt in range(6)]
    assert sorted(candidates) == list("012345")
    assert plan.sample(8, 1) == SamplePlan([Part(manifest_of(6))], 2, config_of()).sample(8, 1)
    assert plan.sample(8, 6).start_frame != plan.sample(8, 0).start_frame  # the same clip, another window


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 41}, "clip 0 has 40 frames.*spans 41"),
        ({"num_frames": 21, "frame_stride": 2}, "clip 0 has 40 frames.*spans 41"),
        ({"height_px": 91, "resize": "crop"}, "clip 0 is 200x90 px, smaller than the 96x91"),
        ({"width_px": 201, "resize": "resize_crop"}, "clip 0 is 200x90 px, smaller than the 201x64"),
    ],
)
def test_windows_that_do_not_fit_are_found_when_the_plan_is_made(changes, message):
    with pytest.raises(DataError, match=message):
        SamplePlan([Part(manifest_of(1))], 0, config_of(**changes))
    with pytest.raises(DataError, match=message):
        list(cover_windows(manifest_of(1), config_of(**changes), hop_frames=1))


def test_no_clips():
    with pytest.raises(DataError, match="nothing to train on"):
        SamplePlan([Part(Manifest(()))], 0, config_of())


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 500), st.integers(1, 500))
def test_largest_box_fills_one_side_and_has_the_shape(height, width, target_height, target_width):
    box_height, box_width = largest_box(height, width, target_height, target_width)
    assert box_height <= height
    assert box_width <= width
    assert box_height == height or box_width == width
    exact = min(height, width * target_height / target_width)
    assert exact - 1 < box_height < exact + 1


def test_cover_windows():
    samples = list(cover_windows(manifest_of(2), config_of(num_frames=9), hop_frames=8))
    assert [s.start_frame for s in samples] == [100, 108, 116, 124] * 2
    assert [s.index for s in samples] == list(range(8))
    assert {(s.box.top_px, s.box.left_px, s.box.height_px, s.box.width_px) for s in samples} == {(0, 32, 90, 135)}
    assert not any(s.flip for s in samples)


SIZES = ((90, 160), (160, 90), (100, 100), (90, 120), (400, 300))


def blend_of(counts: list[int]) -> list[Part]:
    """Sources of so many clips of all shapes, the k-th with weight k + 1."""
    return [
        Part(
            Manifest(
                tuple(
                    replace(
                        CLIP,
                        clip_id=f"{source}/{row}",
                        digest=f"{source * 1000 + row:064x}",
                        height_px=SIZES[row % 5][0],
                        width_px=SIZES[row % 5][1],
                    )
                    for row in range(count)
                )
            ),
            weight=source + 1,
        )
        for source, count in enumerate(counts)
    ]


BUCKETED = {"buckets": "256", "height_px": 256, "width_px": 256, "resize": "pad"}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    group_size=st.sampled_from([1, 4, 6]),
    image_share=st.sampled_from([0.0, 0.25, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_a_blend_of_buckets(counts, group_size, image_share, seed):
    parts = blend_of(counts)
    plan = SamplePlan(parts, seed, config_of(**BUCKETED), image_share=image_share, group_size=group_size)
    groups = [[plan.sample(g * group_size + k) for k in range(group_size)] for g in range(60)]
    visits: dict[tuple, list[str]] = {}
    for group in groups:
        assert len({(s.height_px, s.width_px, s.num_frames) for s in group}) == 1  # they stack
        for sample in group:
            source = sample.clip.clip_id.partition("/")[0]
            cell = (source, sample.height_px, sample.width_px, sample.num_frames)
            visits.setdefault(cell, []).append(sample.clip.clip_id)
    for (source, height_px, width_px, _), seen in visits.items():
        clips = {
            clip.clip_id
            for clip in parts[int(source)].clips
            if SIZES_PX["256"][nearest_bucket(clip.height_px, clip.width_px, SIZES_PX["256"])] == (height_px, width_px)
        }
        for epoch in range(0, len(seen) - len(clips) + 1, len(clips)):
            assert set(seen[epoch : epoch + len(clips)]) == clips  # none twice, none left out
    images = sum(group[0].num_frames == 1 for group in groups)
    assert abs(images - 60 * image_share) <= 1


def test_weights_are_kept():
    plan = SamplePlan(blend_of([5, 50]), 0, config_of(**BUCKETED))
    drawn = [plan.sample(i).clip.clip_id.partition("/")[0] for i in range(3000)]
    assert abs(drawn.count("1") / 3000 - 2 / 3) < 0.01


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99))
def test_any_number_of_ranks_draws_the_same_batches(seed):
    """8 ranks, then 4, 3 and 16, each resuming where the last was killed."""
    parts, config = blend_of([7, 4]), config_of(**BUCKETED)
    batch = 48
    whole = [SamplePlan(parts, seed, config, image_share=0.25, group_size=batch).sample(i) for i in range(4 * batch)]
    for step, num_ranks in enumerate((8, 4, 3, 16)):
        plan = SamplePlan(parts, seed, config, image_share=0.25, group_size=batch)
        slices = [rank_slice(step, batch, rank, num_ranks) for rank in range(num_ranks)]
        drawn = [plan.sample(i) for i in chain.from_iterable(slices)]
        assert drawn == whole[step * batch : (step + 1) * batch]


def test_another_blend_is_another_plan():
    one, two = blend_of([5, 5])
    config = config_of(**BUCKETED)
    digests = {
        SamplePlan(parts, 0, config).digest
        for parts in ([one], [two], [one, two], [two, one], [one, replace(two, weight=9.0)])
    }
    assert len(digests) == 5
    assert SamplePlan([one], 0, config).digest == one.clips.digest


def test_the_stride_follows_the_frame_rate():
    rates = [12.0, 23.976, 25.0, 30.0, 50.0, 60.0, 120.0]
    clips = Manifest(tuple(replace(CLIP, clip_id=str(rate), fps=rate, num_frames=90) for rate in rates))
    config = config_of(target_fps=24.0, max_bad_share=0.2)
    plan = SamplePlan([Part(clips)], 0, config)
    found = {s.clip.fps: (s.frame_stride, round(s.fps, 3)) for s in map(plan.sample, range(60))}
    assert found == {
        23.976: (1, 23.976),
        25.0: (1, 25.0),
        30.0: (1, 30.0),
        50.0: (2, 25.0),
        60.0: (2, 30.0),
        120.0: (5, 24.0),
    }
    with pytest.raises(DataError, match=r"1 of 7 clips have 12 fps, far from data\.target_fps=24\.0"):
        SamplePlan([Part(clips)], 0, replace(config, max_bad_share=0.1))


def test_views_show_the_same_frames():
    side = Pictures(**{f.name: getattr(CLIP, f.name) for f in fields(Pictures)} | {"view": "side", "start_frame": 7})
    clip = replace(CLIP, view="front", views=(replace(side, height_px=180, width_px=400), replace(side, view="back")))
    plan = SamplePlan([Part(Manifest((clip,)))], 0, config_of())
    for index in range(10):
        samples = [plan.sample(index, view=view) for view in range(3)]
        assert [sample.clip.view for sample in samples] == ["front", "side", "back"]
        assert len({sample.start_frame - sample.clip.start_frame for sample in samples}) == 1
        assert len({sample.flip for sample in samples}) == 1


def test_clips_with_actions_are_not_mirrored():
    action = Action(names=("x",), units=("m",), rate_hz=30.0, frame_of_reference="base", values=(0.0,) * 40)
    plan = SamplePlan([Part(Manifest((replace(CLIP, action=action),)))], 0, config_of())
    assert not any(plan.sample(i).flip for i in range(50))


def test_the_caption_is_that_of_the_window():
    windows = (
        CaptionWindow(start_frame=0, num_frames=20, text="first"),
        CaptionWindow(start_frame=20, num_frames=20, text="then"),
    )
    plan = SamplePlan([Part(Manifest((replace(CLIP, caption="all", captions=windows),)))], 0, config_of())
    for sample in map(plan.sample, range(30)):
        middle = sample.start_frame - CLIP.start_frame + 4
        assert sample.caption == ("first" if middle < 20 else "then")


def test_quarantined_clips_are_left_out(tmp_path):
    clips = Manifest(tuple(replace(CLIP, clip_id=str(row), digest=f"{row:064x}") for row in range(4)))
    (tmp_path / "q.jsonl").write_text('{"digest": "' + clips[2].digest + '", "reason": "torn"}\n', encoding="utf-8")
    plan = SamplePlan([Part(clips)], 0, config_of(quarantine=str(tmp_path / "q.jsonl")))
    assert {plan.sample(i).clip.clip_id for i in range(12)} == {"0", "1", "3"}
    assert plan.digest != clips.digest
    (tmp_path / "q.jsonl").write_text("torn", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.quarantine=.*no list of digests"):
        SamplePlan([Part(clips)], 0, config_of(quarantine=str(tmp_path / "q.jsonl")))


@pytest.mark.parametrize(("height", "width", "ratio"), [(1080, 1920, 0.6), (1920, 1080, 1 / 0.6), (500, 510, 1.0)])
def test_the_nearest_bucket(height, width, ratio):
    bucket_height, bucket_width = SIZES_PX["256"][nearest_bucket(height, width, SIZES_PX["256"])]
    assert bucket_height / bucket_width == pytest.approx(ratio)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 300), st.integers(1, 300))
def test_a_padded_picture_fills_one_side(height, width, target_height, target_width):
    clip, config = replace(CLIP, height_px=height, width_px=width), config_of(resize="pad")
    inner = inner_box(clip, config, target_height, target_width)
    assert inner is not None
    assert 1 <= inner.height_px <= target_height
    assert 1 <= inner.width_px <= target_width
    assert inner.height_px == target_height or inner.width_px == target_width
    assert abs(2 * inner.top_px + inner.height_px - target_height) <= 1


def test_a_window_spans_its_strides():
    assert span_frames(CLIP, config_of(frame_stride=3)) == 25
    assert span_frames(CLIP, config_of(target_fps=15.0)) == 17, "of 30 frames a second every second one"
