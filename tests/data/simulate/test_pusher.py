"""The pusher: places follow from actions, things move by contact alone, tasks share their first frame."""

import hashlib
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.simulate.clips import SimulatedClip
from cosmos_data.simulate.config import PusherConfig
from cosmos_data.simulate.contacts import Table
from cosmos_data.simulate.push_policies import DIRECTIONS
from cosmos_data.simulate.pusher import COLORS_RGB, Pusher

CONFIG = PusherConfig(num_frames=33, num_objects=2)
TASK = PusherConfig(policy="task")
DIGEST = "1a59ab3b42840e8052ef8c13b474fd38e25f68ce4cff8a263474989ece32cf8d"
"""SHA-256 of pictures, instances, actions and places of seeds 0 to 3: another machine or edit must not change it."""
TABLE = Table(height=1.0, shape="disc", hand_radius=0.07, object_radius=0.12)


def actions_T2(clip: SimulatedClip) -> np.ndarray:
    assert clip.action is not None
    return clip.action.values_ND()


def test_a_seed_is_one_clip_bit_for_bit():
    sha256 = hashlib.sha256()
    for seed, shape in enumerate(("disc", "block", "disc", "block")):
        clip = Pusher(replace(CONFIG, shape=shape)).clip(seed)
        [view] = clip.views
        assert view.instances_THW is not None
        for array in (view.pictures_THW3, view.instances_THW, actions_T2(clip), *clip.states.values()):
            sha256.update(np.ascontiguousarray(array).tobytes())
    assert sha256.hexdigest() == DIGEST


@pytest.mark.parametrize("shape", ["disc", "block"])
def test_the_hand_goes_where_it_is_told_unless_it_is_stopped(shape: str):
    """Step k leads from frame k to frame k+1; where nothing stops the hand its places are the sum of its actions."""
    free = stopped = 0
    for seed in range(12):
        clip = Pusher(replace(CONFIG, shape=shape)).clip(seed)
        hand = clip.states["hand_T2"]
        told, went = actions_T2(clip)[:-1], np.diff(hand, axis=0)
        assert len(actions_T2(clip)) == len(hand) == 33
        assert np.linalg.norm(told, axis=1).max() <= CONFIG.max_speed + 1e-12
        is_free = np.abs(told - went).max(axis=1) < 1e-12
        free, stopped = free + is_free.sum(), stopped + (~is_free).sum()
        for step in np.flatnonzero(~is_free):
            is_at_edge = np.abs(hand[step + 1] - 0.5).max() > 0.5 - CONFIG.hand_radius - 1e-9
            from_things = np.abs(clip.states["objects_TN2"][step + 1] - hand[step + 1]).max(axis=1)
            assert is_at_edge or from_things.min() < CONFIG.hand_radius + CONFIG.object_radius + 0.02
    assert free > 3 * stopped


@pytest.mark.parametrize("shape", ["disc", "block"])
def test_things_move_only_where_they_are_pushed(shape: str):
    config = replace(CONFIG, shape=shape, num_objects=1)
    moved = 0
    for seed in range(12):
        states = Pusher(config).clip(seed).states
        hand, things = states["hand_T2"], states["objects_TN2"][:, 0]
        assert (np.abs(things - 0.5) <= 0.5 - config.object_radius + 1e-12).all(), "on the table"
        reach = config.hand_radius + config.object_radius * (1 if shape == "disc" else np.sqrt(2))
        is_moved = np.abs(np.diff(things, axis=0)).max(axis=1) > 0
        distance = np.linalg.norm(things - hand, axis=1)
        assert (distance[1:][is_moved] < reach + 0.02).all(), "at a distance nothing moves"
        if shape == "disc":
            assert distance.min() > reach - 1e-6, "nothing overlaps"
        still = ~actions_T2(Pusher(config).clip(seed))[:-1].any(axis=1)
        assert not is_moved[still].any(), "without an action nothing moves"
        moved += bool(is_moved.any())
    assert moved > 8, "most clips show a push"


def test_a_thing_that_is_pushed_moves_as_the_hand_does():
    hand, things = TABLE.moved((0.3, 0.5), [(0.5, 0.5)], (0.05, 0.0))
    assert hand == pytest.approx((0.35, 0.5)) and things[0] == pytest.approx((0.54, 0.5))
    further = TABLE.moved(hand, things, (0.05, 0.0))[1]
    assert further[0] == pytest.approx((0.59, 0.5))


def test_walls_stop_a_thing_and_a_thing_the_hand():
    hand, things = TABLE.moved((0.68, 0.5), [(0.88, 0.5)], (0.06, 0.0))
    assert things[0] == pytest.approx((0.88, 0.5)) and hand == pytest.approx((0.69, 0.5))
    assert TABLE.moved((0.08, 0.5), [(0.5, 0.5)], (-0.06, 0.0))[0] == pytest.approx((0.07, 0.5))


@pytest.mark.parametrize("shape", ["disc", "block"])
def test_a_thing_pushes_another(shape: str):
    table = replace(TABLE, shape=shape)
    _, things = table.moved((0.2, 0.5), [(0.4, 0.5), (0.65, 0.5)], (0.06, 0.0))
    assert things[0][0] == pytest.approx(0.45) and things[1][0] == pytest.approx(0.69)


def test_instances_lie_where_places_say():
    clip = Pusher(CONFIG).clip(1)
    [view] = clip.views
    assert view.instances_THW is not None and clip.instance_names[:2] == ("table", "hand")
    rows, columns = np.mgrid[:32, :32] + 0.5
    for frame, (right, down) in enumerate(32 * clip.states["hand_T2"]):
        is_hand = view.instances_THW[frame] == 1
        assert abs(columns[is_hand].mean() - right) < 0.5 and abs(rows[is_hand].mean() - down) < 0.5
        assert (view.pictures_THW3[frame][is_hand].min(axis=1) > 130).all(), "the hand is white"
    assert {int(number) for number in np.unique(view.instances_THW)} == {0, 1, 2, 3}
    for number, (right, down) in enumerate(32 * clip.states["objects_TN2"][0], start=2):
        is_thing = view.instances_THW[0] == number
        assert abs(columns[is_thing].mean() - right) < 0.3 and abs(rows[is_thing].mean() - down) < 0.3
        color = COLORS_RGB[clip.instance_names[number].split()[0]]
        assert np.abs(np.median(view.pictures_THW3[0][is_thing], axis=0) - color).max() < 2


@pytest.mark.parametrize("shape", ["disc", "block"])
def test_a_task_is_done_and_does_not_show_in_the_first_frame(shape: str):
    """Seen in the places: the named thing goes the way that the caption says, and nearly nowhere else."""
    for seed in range(4):
        first_frames = []
        for direction, (right, down) in DIRECTIONS.items():
            clip = Pusher(replace(TASK, shape=shape, task=direction)).clip(seed)
            color = Pusher(TASK).scene(seed).colors[0]
            assert clip.caption == f"push the {color} {shape} {direction}"
            [way_x, way_y] = clip.states["objects_TN2"][-1, 0] - clip.states["objects_TN2"][0, 0]
            along, aside = way_x * right + way_y * down, way_x * down - way_y * right
            assert along > 0.15 and abs(aside) < 1e-6
            assert not actions_T2(clip)[-1].any(), "it stands still when it is done"
            first_frames.append(clip.views[0].pictures_THW3[0])
        assert all(np.array_equal(one, other) for one, other in pairwise(first_frames))
        drawn = Pusher(replace(TASK, shape=shape)).clip(seed)
        assert np.array_equal(drawn.views[0].pictures_THW3[0], first_frames[0])
    assert len({Pusher(TASK).caption(seed) for seed in range(160)}) == len(COLORS_RGB) * len(DIRECTIONS)


def test_other_actions_give_another_future_of_the_same_frame():
    world = Pusher(CONFIG)
    clip = world.clip(0)
    again = world.played(0, actions_T2(clip))
    assert np.array_equal(again.views[0].pictures_THW3, clip.views[0].pictures_THW3)
    opposite = world.played(0, -actions_T2(clip))
    assert np.array_equal(opposite.views[0].pictures_THW3[0], clip.views[0].pictures_THW3[0])
    assert not np.array_equal(opposite.states["hand_T2"][-1], clip.states["hand_T2"][-1])


def test_fewer_actions_than_frames_are_refused():
    for shape in ((32, 2), (33, 3), (33,)):
        with pytest.raises(DataError, match=rf"{re.escape(str(list(shape)))} are not num_frames=33 .*give \[33, 2\]"):
            Pusher(CONFIG).played(0, np.zeros(shape))


def test_a_scripted_hand_pushes_all_the_time():
    world = Pusher(replace(CONFIG, policy="scripted", num_frames=120))
    for seed in range(5):
        ways = np.abs(np.diff(world.clip(seed).states["objects_TN2"], axis=0)).sum(axis=0)
        assert ways.sum() > 0.75, "three pushes or more"


def test_the_same_seed_is_the_same_world_at_every_size():
    small, large = Pusher(CONFIG).clip(2), Pusher(replace(CONFIG, height_px=64, width_px=64)).clip(2)
    assert np.array_equal(actions_T2(small), actions_T2(large))
    shrunk = large.views[0].pictures_THW3.reshape(33, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.views[0].pictures_THW3).mean() < 2


def test_worlds_that_can_not_be():
    with pytest.raises(DataError, match=r"hand_radius=0.07 and object_radius=0.12 leave the hand no room"):
        PusherConfig(height_px=16)
    with pytest.raises(DataError, match="leave no room for two things on a table of 32x32 px"):
        PusherConfig(num_objects=2, hand_radius=0.15, object_radius=0.14)
    with pytest.raises(DataError, match="task=left is for policy=task, and policy=random"):
        PusherConfig(task="left")
