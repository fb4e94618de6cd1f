import math
from dataclasses import replace

import numpy as np
import pytest

from cosmos_data.manifests.conditions import Action, Camera, CaptionWindow, EgoTrajectory

EYE = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CAMERA = Camera(
    convention="world_to_camera_opencv",
    intrinsics_px=(100.0, 100.0, 64.0, 36.0),
    height_px=72,
    width_px=128,
    extrinsics=EYE * 8,
)
ACTION = Action(
    names=("x", "grip"),
    units=("m", "1"),
    rate_hz=5.0,
    frame_of_reference="robot base",
    values=tuple(float(v) for v in range(20)),
)
EGO = EgoTrajectory(rate_hz=10.0, frame_of_reference="vehicle at the first frame", positions_m=(0.5,) * 30)


def edited(values: tuple[float, ...], place: int, value: float) -> tuple[float, ...]:
    return (*values[:place], value, *values[place + 1 :])


def test_good_ones_have_no_faults():
    assert list(CAMERA.faults(8)) == []
    assert list(ACTION.faults(60, 30.0)) == []  # 2 s at 5 Hz: 10 steps of 2
    assert list(EGO.faults(25, 25.0)) == []  # 1 s at 10 Hz, exactly its 10 steps
    assert list(EGO.faults(12, 25.0)) == []  # it may go on past the clip


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (replace(CAMERA, extrinsics=edited(EYE * 8, 27, math.nan)), "nan at frame 2, 1 such"),
        (replace(CAMERA, extrinsics=edited(EYE * 8, 12, 1.1)), "the matrix at frame 1 is no rotation"),
        (replace(CAMERA, extrinsics=edited(EYE * 8, 0, -1.0)), "at frame 0 is no rotation (a mirror image)"),
        (replace(CAMERA, extrinsics=EYE * 7), "84 values; 12, or 12 for each of 8 frames"),
        (replace(CAMERA, intrinsics_px=(1.0, math.inf, 0.0, 0.0)), "inf at frame 0"),
        (replace(CAMERA, intrinsics_px=(1.0, -1.0, 0.0, 0.0)), "fx and fy are [1.0, -1.0] at frame 0"),
        (replace(CAMERA, convention="blender"), "convention 'blender'"),
        (replace(CAMERA, width_px=0), "a picture of 0x72 px"),
    ],
)
def test_impossible_cameras(camera, words):
    assert words in " ".join(camera.faults(8))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (replace(ACTION, values=ACTION.values[:-2]), "18 values; 10 steps of 2 belong to 60 frames at 30 fps and 5 Hz"),
        (replace(ACTION, values=edited(ACTION.values, 7, math.nan)), "action: nan at step 3"),
        (replace(ACTION, units=("m",)), "one unit for each name"),
        (replace(ACTION, names=("x", "x")), "none twice"),
        (replace(ACTION, rate_hz=0.0), "no rate"),
    ],
)
def test_impossible_actions(action, words):
    assert words in " ".join(action.faults(60, 30.0))
    assert all(fault.startswith("state: ") for fault in action.faults(60, 30.0, what="state"))


@pytest.mark.parametrize(
    ("ego", "words"),
    [
        (replace(EGO, positions_m=EGO.positions_m[:-3]), "3 for each of 10 steps or more"),
        (replace(EGO, positions_m=edited(EGO.positions_m, 4, -math.inf)), "-inf at step 1"),
        (replace(EGO, rotations=(1.0,) * 9), "9 for each of 10 steps"),
        (
            replace(EGO, rotations=(2.0, 0, 0, 0, 2.0, 0, 0, 0, 2.0) * 10),
            "at step 0 is no rotation (off by 3), 10 of 10",
        ),
    ],
)
def test_impossible_trajectories(ego, words):
    assert words in " ".join(ego.faults(25, 25.0))


def test_parts_are_of_the_same_frames():
    per_frame = replace(CAMERA, extrinsics=tuple(float(v) for v in range(96)))
    assert per_frame.part(3, 2, 8).extrinsics == tuple(float(v) for v in range(36, 60))
    assert per_frame.part(3, 2, 8).intrinsics_px == CAMERA.intrinsics_px  # one for all frames
    assert ACTION.part(30, 12, 30.0).values == tuple(float(v) for v in range(10, 14))  # steps 5 and 6
    assert np.array_equal(ACTION.part(30, 12, 30.0).values_ND(), [[10, 11], [12, 13]])


def test_a_part_has_all_of_its_steps():
    """Of 10 frames with 5 steps the last 7 begin with step 1.5 and have 3.5 steps: 2 and 4, were both rounded."""
    action = replace(ACTION, rate_hz=15.0, values=ACTION.values[:10])
    assert action.part(3, 7, 30.0).values == ACTION.values[2:10]
    assert list(action.part(3, 7, 30.0).faults(7, 30.0)) == []
    path = EgoTrajectory(rate_hz=15.0, frame_of_reference="vehicle", positions_m=tuple(float(v) for v in range(15)))
    assert path.part(3, 7, 30.0).positions_m == path.positions_m[3:]


def test_a_point_is_seen_where_the_cropped_picture_has_it():
    """Projected with the intrinsics, then cut; or cut, then projected."""
    point = np.array([0.3, -0.2, 2.0])
    fx, fy, cx, cy = CAMERA.intrinsics_px
    right, down = fx * point[0] / point[2] + cx, fy * point[1] / point[2] + cy
    cut = CAMERA.cropped(top_px=20, left_px=60, height_px=100, width_px=120, of_height_px=144, of_width_px=256)
    fx, fy, cx, cy = cut.intrinsics_T4(1)[0]
    assert (cut.height_px, cut.width_px) == (100, 120)
    assert fx * point[0] / point[2] + cx == pytest.approx(2 * right - 60)
    assert fy * point[1] / point[2] + cy == pytest.approx(2 * down - 20)


def test_overlap():
    window = CaptionWindow(start_frame=10, num_frames=5, text="")
    assert [window.overlap(start, 4) for start in (0, 7, 9, 11, 14, 15)] == [0, 1, 3, 4, 1, 0]
