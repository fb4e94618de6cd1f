"""What is drawn onto frames is at its place, says the right step, and leaves the rest of the picture alone."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.manifests.conditions import Action
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.steering.camera_path import read_camera
from cosmos_data.steering.overlay import LEAST_SIDE_PX, NOW_RGB, draw_conditions, enlarged
from cosmos_data.steering.steered import SteeredVideo

GREEN = torch.tensor([20, 120, 20], dtype=torch.uint8)[:, None, None, None]
DATA = DataConfig(manifest="unused", num_frames=5, height_px=32, width_px=32)


def drawn(conditions: WindowConditions, *, num_frames: int = 5, size_px: int = 32) -> Tensor:
    return draw_conditions(GREEN.expand(3, num_frames, size_px, size_px), conditions, fps=10.0)


def bright(frame_3HW: Tensor) -> np.ndarray:
    """Where (row, column) the colour of what is now lies, [N, 2]."""
    return np.argwhere((frame_3HW.permute(1, 2, 0).numpy() == NOW_RGB).all(axis=2))


def actions(*steps: tuple[float, ...], rate_hz: float = 10.0) -> Action:
    names = ("x", "y", "grip")[: len(steps[0])]
    values = tuple(np.array(steps, dtype=float).ravel().tolist())
    return Action(
        names=names,
        units=("px",) * len(names),
        rate_hz=rate_hz,
        frame_of_reference="table, x right, y down",
        values=values,
    )


def path(source: str) -> WindowConditions:
    video = SteeredVideo(num_frames=5, fps=10.0, height_px=32, width_px=32)
    return WindowConditions(camera=read_camera(f"{source},fov_deg=60", video, DATA))


def test_a_small_video_is_enlarged_and_otherwise_as_it_was():
    video = drawn(WindowConditions())
    assert video.shape == (3, 5, LEAST_SIDE_PX, LEAST_SIDE_PX) and (video == GREEN).all()
    large = torch.randint(0, 256, (3, 2, 300, 400), dtype=torch.uint8)
    assert torch.equal(enlarged(large), large)


def test_an_arrow_points_where_the_action_goes():
    """Right, down, left, up; the last frame has none."""
    steps = [(1, 0), (0, 1), (-1, 0), (0, -1), (9, 9)]
    video = drawn(WindowConditions(action=actions(*steps[:4], (0, 0))))
    middle_2 = bright(drawn(WindowConditions(action=actions(*[(0, 0)] * 5)))[:, 0]).mean(axis=0)
    for number, (right, down) in enumerate(steps[:4]):
        row, column = bright(video[:, number]).mean(axis=0) - middle_2
        assert (np.sign(round(column)), np.sign(round(row))) == (right, down)
        assert abs(row * right) + abs(column * down) < 2
    assert (video[:, -1] == GREEN[:, 0]).all(), "nothing follows the last frame"


def test_a_plane_whose_y_is_not_downwards_is_bars():
    """Such as the table of MuJoCo, whose y is away from the viewer: two bars in the place of a wrong arrow."""
    upwards = replace(actions(*[(0, 1)] * 5), frame_of_reference="model")
    rows = bright(drawn(WindowConditions(action=upwards))[:, 0])
    assert len(np.split(rows, np.flatnonzero(np.diff(rows[:, 0]) > 2) + 1)) == 2
    pixels = drawn(WindowConditions(action=upwards))[:, 0]
    assert not torch.equal(pixels, drawn(WindowConditions(action=actions(*[(0, 1)] * 5)))[:, 0])


def test_the_arrow_is_longest_at_the_largest_action():
    video = drawn(WindowConditions(action=actions((1, 0), (2, 0), (4, 0), (0, 0), (0, 0))))
    lengths = [np.ptp(bright(video[:, number])[:, 1]) for number in range(3)]
    assert lengths[2] > 1.6 * lengths[1] > 2 * lengths[0]


def test_actions_at_twice_the_frame_rate():
    """Frame k shows the step that begins with it, the second of each pair is none's."""
    twice = actions(*[step for _ in range(5) for step in ((1, 0), (0, 0))], rate_hz=20.0)
    once = actions(*[(1, 0)] * 5)
    assert torch.equal(drawn(WindowConditions(action=twice)), drawn(WindowConditions(action=once)))


def test_other_actions_are_bars_to_either_side():
    """A line for each dimension; the bar of a negative value lies to the left of its place at 0."""
    video = drawn(WindowConditions(action=actions((1, -1, 0.5), *[(0, 0, 0)] * 4)))
    rows = bright(video[:, 0])
    lines = np.split(rows, np.flatnonzero(np.diff(rows[:, 0]) > 2) + 1)
    assert len(lines) == 3
    first, second, third = (line[:, 1] for line in lines)
    assert second.max() <= first.min() + 1, "one to the right, one to the left of the same place"
    assert np.ptp(first) == np.ptp(third), "each is drawn in proportion to its own largest value"


def test_the_camera_goes_to_the_right_and_looks_to_the_left():
    """Of an orbit to the right, seen from above: the place moves to the right, and the heading turns to the left."""
    video = drawn(path("orbit:90"))
    lower_left = video[:, :, LEAST_SIDE_PX // 2 :, : LEAST_SIDE_PX // 2]
    assert (video[:, :, : LEAST_SIDE_PX // 2] == GREEN).all() and not (lower_left == GREEN).all()
    columns = [bright(lower_left[:, number])[:, 1].mean() for number in range(5)]
    assert (np.diff(columns) > 0).all()
    heading_rows, heading_columns = np.ptp(bright(lower_left[:, -1]), axis=0)
    assert heading_columns > heading_rows, "turned by 90 degrees, it no longer points up"


def test_a_camera_that_stands_still_is_one_dot():
    video = drawn(replace(path("pan:0"), action=None))
    assert all(torch.equal(video[:, 0], video[:, number]) for number in range(5))
