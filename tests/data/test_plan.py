from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifest import Clip, Manifest
from cosmos_data.plan import IndexPlan, SamplePlan, cover_windows, largest_box, rank_slice

CLIP = Clip(
    clip_id="a",
    path="/a.mp4",
    start_frame=100,
    num_frames=40,
    fps=30.0,
    height_px=90,
    width_px=200,
    codec="h264",
    color_matrix="bt601",
    first_pts=0,
    digest="0" * 64,
    caption="",
    split="train",
)


def manifest_of(num_clips: int) -> Manifest:
    return Manifest(tuple(replace(CLIP, clip_id=str(row)) for row in range(num_clips)))


def config_of(**changes) -> DataConfig:
    return DataConfig(**({"manifest": "m.parquet", "num_frames": 9, "height_px": 64, "width_px": 96} | changes))


def test_sample_is_a_pure_function():
    clips, config = manifest_of(7), config_of()
    forward = [SamplePlan(clips, 3, config).sample(i) for i in range(40)]
    plan = SamplePlan(clips, 3, config)
    assert [plan.sample(i) for i in reversed(range(40))] == forward[::-1]
    assert [SamplePlan(clips, 4, config).sample(i) for i in range(40)] != forward
    recaptioned = Manifest((replace(clips[0], caption="other"), *clips.clips[1:]))
    assert [s.start_frame for s in map(SamplePlan(recaptioned, 3, config).sample, range(40))] != [
        s.start_frame for s in forward
    ]


def test_draws_stay_the_same_between_versions():
    """A checkpoint's position means these samples: should this fail, old runs resume on other data."""
    plan = SamplePlan(manifest_of(5), 0, config_of(resize="crop"))
    drawn = [(s.clip.clip_id, s.start_frame, s.box.top_px, s.box.left_px, s.flip) for s in map(plan.sample, range(5))]
    assert drawn == [
        ("1", 130, 0, 71, False),
        ("3", 119, 22, 52, True),
        ("2", 114, 2, 43, False),
        ("4", 124, 10, 72, True),
        ("0", 129, 0, 12, True),
    ]


@settings(max_examples=60, deadline=None)
@given(num_items=st.integers(1, 200), seed=st.integers(0, 2**63), epoch=st.integers(0, 2**40))
def test_an_epoch_visits_every_item_once(num_items, seed, epoch):
    plan = IndexPlan(num_items, "digest", seed)
    order = [plan.item(epoch * num_items + place) for place in range(num_items)]
    assert sorted(order) == list(range(num_items))
    following = [plan.item((epoch + 1) * num_items + place) for place in range(num_items)]
    assert num_items < 30 or following != order


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 2**40), attempt=st.integers(0, 6), resize=st.sampled_from(["crop", "resize_crop"]))
def test_windows_stay_inside_their_clip(index, attempt, resize):
    config = config_of(num_frames=5, frame_stride=3, resize=resize)
    sample = SamplePlan(manifest_of(3), 1, config).sample(index, attempt)
    assert 100 <= sample.start_frame <= 100 + 40 - 13
    assert 0 <= sample.box.top_px <= 90 - sample.box.height_px
    assert 0 <= sample.box.left_px <= 200 - sample.box.width_px
    assert sample.fps == 10.0


def test_every_window_and_offset_is_drawn_about_equally_often():
    plan = SamplePlan(manifest_of(1), 5, config_of(num_frames=37, height_px=90, width_px=198, resize="crop"))
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
    plan = SamplePlan(manifest_of(2), 0, config_of(flip=False))
    assert not any(plan.sample(i).flip for i in range(50))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_ranks_share_one_global_batch(num_ranks):
    for step in (0, 5):
        slices = [rank_slice(step, 24, rank, num_ranks) for rank in range(num_ranks)]
        assert [index for part in slices for index in part] == list(range(step * 24, step * 24 + 24))


def test_ranks_that_do_not_divide_the_batch():
    with pytest.raises(DataError, match="global_batch_size=24 is not divisible by the 5"):
        rank_slice(0, 24, 0, 5)


def test_replacements_walk_through_the_epoch():
    plan = SamplePlan(manifest_of(6), 2, config_of())
    candidates = [plan.sample(8, attempt).clip.clip_id for attempt in range(6)]
    assert sorted(candidates) == list("012345")
    assert plan.sample(8, 1) == SamplePlan(manifest_of(6), 2, config_of()).sample(8, 1)
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
        SamplePlan(manifest_of(1), 0, config_of(**changes))
    with pytest.raises(DataError, match=message):
        list(cover_windows(manifest_of(1), config_of(**changes), hop_frames=1))


def test_no_clips():
    with pytest.raises(DataError, match="nothing to train on"):
        SamplePlan(Manifest(()), 0, config_of())


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
