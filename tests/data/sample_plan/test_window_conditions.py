"""A window's camera sees a point where the window shows it; its actions and trajectory are those of its frames."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import CLIP

from cosmos_data.config import DataConfig
from cosmos_data.decoders.transform import fit_frames
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.conditions import Action, Camera, EgoTrajectory, num_steps
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import Part, Sample, SamplePlan, central_sample
from cosmos_data.sample_plan.window_conditions import WindowConditions, conditions_of, conditions_said


def moving_camera(num_frames: int, height_px: int, width_px: int) -> Camera:
    """It turns about y, walks, and zooms in; its intrinsics refer to a picture of that size."""
    angles_T, zoom_T = np.linspace(0, 0.3, num_frames), np.linspace(1, 1.5, num_frames)
    extrinsics_T34 = np.zeros((num_frames, 3, 4))
    extrinsics_T34[:, 0, 0] = extrinsics_T34[:, 2, 2] = np.cos(angles_T)
    extrinsics_T34[:, 0, 2], extrinsics_T34[:, 2, 0] = np.sin(angles_T), -np.sin(angles_T)
    extrinsics_T34[:, 1, 1] = 1
    extrinsics_T34[:, :, 3] = np.outer(angles_T, (1.0, -0.5, 0.2))
    of_size = (0.8 * width_px, 0.9 * width_px, 0.45 * width_px, 0.6 * height_px)
    return Camera(
        convention="world_to_camera_opencv",
        intrinsics_px=tuple((zoom_T[:, None] * of_size).ravel().tolist()),
        height_px=height_px,
        width_px=width_px,
        extrinsics=tuple(extrinsics_T34.ravel().tolist()),
    )


def seen_at(camera: Camera, num_frames: int, point_m: np.ndarray) -> np.ndarray:
    """(right, down) in the picture that the intrinsics refer to, at each frame: [T, 2]."""
    extrinsics_T34, intrinsics_T4 = camera.extrinsics_T34(num_frames), camera.intrinsics_T4(num_frames)
    points_T3 = extrinsics_T34[:, :, :3] @ point_m + extrinsics_T34[:, :, 3]
    return intrinsics_T4[:, :2] * points_T3[:, :2] / points_T3[:, 2:] + intrinsics_T4[:, 2:]


def sample_of(clip: Clip, index: int = 0, **config: Any) -> Sample:
    """One that a run draws."""
    wanted: dict[str, Any] = {"manifest": "m", "num_frames": 5, "height_px": 32, "width_px": 48} | config
    return SamplePlan([Part(Manifest([clip]))], 0, DataConfig(**wanted)).sample(index)


def in_window(sample: Sample, places_T2: np.ndarray) -> np.ndarray:
    """Where the window shows these places of the video's picture."""
    box, inner = sample.box, sample.inner
    height_px, width_px = (sample.height_px, sample.width_px) if inner is None else (inner.height_px, inner.width_px)
    scale = (width_px / box.width_px, height_px / box.height_px)
    return (places_T2 - (box.left_px, box.top_px)) * scale + (
        (0, 0) if inner is None else (inner.left_px, inner.top_px)
    )


sizes = st.integers(48, 300)


@settings(max_examples=60, deadline=None)
@given(
    sizes, sizes, sizes, sizes, st.sampled_from(["crop", "resize_crop", "pad"]), st.integers(1, 3), st.integers(0, 99)
)
def test_a_point_is_seen_where_the_window_shows_it(height, width, camera_height, camera_width, resize, stride, index):
    """Projected by the clip's camera, then cut, scaled and padded; or projected by the window's camera."""
    camera = moving_camera(CLIP.num_frames, camera_height, camera_width)
    clip = replace(CLIP, height_px=height, width_px=width, camera=camera)
    sample = sample_of(clip, index, resize=resize, frame_stride=stride)
    point_m = np.array([0.2, -0.1, 3.0])
    in_video_T2 = seen_at(camera, clip.num_frames, point_m) * (width / camera_width, height / camera_height)
    first = sample.start_frame - clip.start_frame
    expected_T2 = in_window(sample, in_video_T2[first :: sample.frame_stride][: sample.num_frames])
    found = conditions_of(sample).camera
    assert found is not None and list(found.faults(sample.num_frames)) == []
    assert (found.height_px, found.width_px) == (sample.height_px, sample.width_px)
    assert np.allclose(seen_at(found, sample.num_frames, point_m), expected_T2, atol=1e-6)


@pytest.mark.parametrize("resize", ["crop", "resize_crop", "pad"])
def test_a_spot_lies_where_the_window_s_camera_says(resize: str):
    """The centre of a spot that was cut, scaled and padded is the camera's principal point, to a part of a pixel."""
    height, width, right, down = 90, 200, 101.3, 44.8  # in every crop
    rows, columns = np.mgrid[:height, :width] + 0.5
    spot_HW = 200 * np.exp(-((columns - right) ** 2 + (rows - down) ** 2) / (2 * 5.0**2))
    frames_THWC = torch.from_numpy(spot_HW.round().astype(np.uint8))[None, :, :, None].expand(1, -1, -1, 3)
    still = replace(moving_camera(1, height, width), intrinsics_px=(150.0, 150.0, right, down))
    config = DataConfig(manifest="m", num_frames=1, height_px=40, width_px=72, resize=resize)  # pyright: ignore[reportArgumentType]
    sample = central_sample(replace(CLIP, height_px=height, width_px=width, camera=still), config)
    window_HW = fit_frames(frames_THWC, sample)[0, 0].double().numpy()
    rows, columns = np.mgrid[:40, :72] + 0.5
    centre = [(places * window_HW).sum() / window_HW.sum() for places in (columns, rows)]
    found = conditions_of(sample).camera
    assert found is not None and found.intrinsics_px[2:] == pytest.approx(centre, abs=0.05)


def test_a_camera_that_stands_still_is_said_once():
    still = moving_camera(1, 90, 200)
    found = conditions_of(sample_of(replace(CLIP, camera=still))).camera
    assert found is not None and found.extrinsics == still.extrinsics and len(found.intrinsics_px) == 4


def with_signals(rate_hz: float, *, steps_more: int = 0) -> Clip:
    """An action and a path whose values are the numbers of their steps; the path goes on past the clip's end."""
    steps = num_steps(CLIP.num_frames, CLIP.fps, rate_hz)
    action = Action(
        names=("x", "grip"),
        units=("m", "1"),
        rate_hz=rate_hz,
        frame_of_reference="robot base",
        values=tuple(np.repeat(np.arange(steps, dtype=float), 2).tolist()),
    )
    ego = EgoTrajectory(
        rate_hz=rate_hz,
        frame_of_reference="vehicle at the clip's first frame",
        positions_m=tuple(np.repeat(np.arange(steps + steps_more, dtype=float), 3).tolist()),
        rotations=tuple(np.eye(3).ravel().tolist()) * (steps + steps_more),
    )
    return replace(CLIP, action=action, state=replace(action, embodiment="arm"), ego_trajectory=ego)


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0, 200.0), st.integers(1, 4), st.integers(0, 99))
def test_steps_are_those_of_the_window_s_frames(rate_hz: float, stride: int, index: int):
    """Within a step of its first frame's time; as many in every window; the path goes on to its own end."""
    clip = with_signals(rate_hz, steps_more=7)
    sample = sample_of(clip, index, frame_stride=stride)
    found = conditions_of(sample)
    assert found.action is not None and found.ego_trajectory is not None
    span = 4 * stride + 1
    count, first = num_steps(span, clip.fps, rate_hz), (sample.start_frame - clip.start_frame) * rate_hz / clip.fps
    steps_N = found.action.values_ND()[:, 0]
    assert found.state == replace(found.action, embodiment="arm")
    assert len(steps_N) == count and list(found.action.faults(span, clip.fps)) == []
    assert count == 0 or abs(steps_N[0] - first) <= 1
    places_N = found.ego_trajectory.positions_N3()[:, 0]
    assert list(found.ego_trajectory.faults(span, clip.fps)) == []
    assert abs(places_N[0] - first) <= 1, "not moved to the window's first frame"
    assert places_N[-1] == num_steps(clip.num_frames, clip.fps, rate_hz) + 6
    assert np.array_equal(np.diff(places_N), np.ones(len(places_N) - 1))


def test_each_view_has_its_own_camera_and_none_is_mirrored():
    """Even where only a view beside the first has one."""
    views = [replace(CLIP, view=name, path=f"/{name}.mp4") for name in ("front", "side")]
    row = replace(views[0], views=(replace(views[1], camera=moving_camera(CLIP.num_frames, 90, 200)),))
    plan = SamplePlan([Part(Manifest([row]))], 0, DataConfig(manifest="m", num_frames=5, height_px=32, width_px=48))
    for index in range(20):
        front, side = (conditions_of(plan.sample(index, view=number)) for number in range(2))
        assert front == WindowConditions(view="front")
        assert side.view == "side" and side.camera is not None


def test_of_a_clip_without_any():
    assert conditions_of(sample_of(CLIP)) == WindowConditions()


@pytest.mark.parametrize("is_table", [True, False])
def test_which_conditions_a_manifest_has(is_table: bool, tmp_path: Path):
    """Read by columns where it is a table, without making its clips."""
    camera = moving_camera(CLIP.num_frames, 90, 200)
    for clip, said in (
        (CLIP, ""),
        (replace(CLIP, view="front", camera=camera), "camera view"),
        (with_signals(30.0), "action ego_trajectory state"),
    ):
        manifest = Manifest([replace(CLIP, clip_id="bare"), clip])
        if is_table:
            manifest.write(tmp_path / "m.arrow")
            manifest = Manifest.read(tmp_path / "m.arrow")
        assert conditions_said(manifest) == said


def test_an_impossible_condition_is_told():
    clip = with_signals(30.0)
    assert clip.action is not None
    cut_off = replace(clip, action=replace(clip.action, values=clip.action.values[:-2]))
    with pytest.raises(DataError, match=r"clip a: action: 78 values; 40 steps of 2 belong to 40 frames.*data check"):
        conditions_of(sample_of(cut_off))
