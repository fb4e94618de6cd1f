"""Worlds of MuJoCo, really simulated and drawn: exact cameras, views of one moment, actions followed, any model."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmos_data.errors import DataError
from cosmos_data.manifests.check import check_manifest
from cosmos_data.manifests.conditions import Camera
from cosmos_data.simulate import renderers
from cosmos_data.simulate.clips import SimulatedClip
from cosmos_data.simulate.config import ArmConfig, MujocoConfig, TableConfig, WorldConfig
from cosmos_data.simulate.folder import SimulationRequest, simulate
from cosmos_data.simulate.labels import read_labels
from cosmos_data.simulate.renderers import LIBRARY_PACKAGES, PACKAGE, found_renderer
from cosmos_data.simulate.worlds import open_world


def lacking() -> str:
    """What is missing here, as the user would be told; empty: nothing."""
    try:
        found_renderer()
    except DataError as error:
        return str(error)
    return ""


needs_mujoco = pytest.mark.skipif(lacking() != "", reason=lacking() or "all is there")
PENDULUM = """<mujoco model="pendulum">
  <option timestep="0.003"/>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="fixed" pos="0 -2 1" xyaxes="1 0 0 0 0 1" fovy="50"/>
    <geom name="floor" type="plane" size="2 2 .1" rgba=".3 .4 .3 1"/>
    <body name="pole" pos="0 0 1">
      <joint name="hinge" axis="0 1 0" damping=".1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -.6" size=".06" rgba="1 .2 .2 1"/>
      <camera name="riding" pos="0 -1.5 0" xyaxes="1 0 0 0 0 1" fovy="60"/>
    </body>
  </worldbody>
  <actuator><position name="swing" joint="hinge" kp="20" dampratio="1" ctrlrange="-1 1"/></actuator>
</mujoco>"""


@pytest.fixture
def pendulum(tmp_path: Path) -> MujocoConfig:
    (tmp_path / "pendulum.xml").write_text(PENDULUM)
    return MujocoConfig(xml=str(tmp_path / "pendulum.xml"), num_frames=13)


def played(config: WorldConfig, controls_NA: np.ndarray) -> SimulatedClip:
    world: Any = open_world(config)
    return world.played(0, controls_NA)


def opencv_poses_T34(camera: Camera, num_frames: int) -> np.ndarray:
    assert camera.convention == "camera_to_world_opengl"
    return camera.extrinsics_T34(num_frames) * np.array([1, -1, -1, 1])


@needs_mujoco
@pytest.mark.parametrize("config", [TableConfig(num_frames=5, num_blocks=2), ArmConfig(num_frames=5)])
def test_bodies_are_seen_where_the_cameras_say(config: TableConfig | ArmConfig):
    """In every view the middle of a block's pixels is where the view's camera puts the block."""
    clip = open_world(config).clip(1)
    judged = 0
    for view in clip.views:
        assert view.camera is not None and view.instances_THW is not None and view.depth_m_THW is not None
        focal_px, _, center_x_px, center_y_px = view.camera.intrinsics_px
        for frame, pose in enumerate(opencv_poses_T34(view.camera, config.num_frames)):
            for name in ("block0", "block1"):
                place = clip.states[f"{name}_m_T3"][frame]
                right, down, ahead = (place - pose[:, 3]) @ pose[:, :3]
                rows, columns = np.nonzero(view.instances_THW[frame] == clip.instance_names.index(name))
                if len(rows) < 3:
                    continue
                expected = np.array([focal_px * right / ahead + center_x_px, focal_px * down / ahead + center_y_px])
                assert np.abs([columns.mean() + 0.5, rows.mean() + 0.5] - expected).max() < 0.8
                nearest = view.depth_m_THW[frame][rows, columns].min()
                assert ahead - 0.13 < nearest < ahead + 0.02
                judged += 1
    assert judged >= 2 * config.num_frames


@needs_mujoco
def test_the_views_of_an_arm_are_of_one_moment():
    """Points that one view's depth and camera give lie on the same things in the other views."""
    config = ArmConfig(num_frames=2, height_px=64, width_px=64)
    clip = open_world(config).clip(0)
    front, side, _top = clip.views
    assert [view.name for view in clip.views] == ["front", "side", "top"]
    assert front.camera and side.camera and front.depth_m_THW is not None and side.depth_m_THW is not None
    rows, columns = np.mgrid[:64, :64] + 0.5
    focal_px = front.camera.intrinsics_px[0]
    depth = front.depth_m_THW[0]
    rays = np.stack([(columns - 32) / focal_px, (rows - 32) / focal_px, np.ones_like(rows)], axis=-1)
    [pose] = opencv_poses_T34(front.camera, 1)
    is_something = np.isfinite(depth)
    points = (depth[is_something][:, None] * rays[is_something]) @ pose[:, :3].T + pose[:, 3]
    floor = points[np.abs(points[:, 2]) < 1e-3]
    assert len(floor) > 500
    [other] = opencv_poses_T34(side.camera, 1)
    right, down, ahead = ((floor - other[:, 3]) @ other[:, :3]).T
    x, y = side.camera.intrinsics_px[0] * right / ahead + 32, side.camera.intrinsics_px[0] * down / ahead + 32
    is_inside = (ahead > 0) & (np.minimum(x, y) >= 1) & (np.maximum(x, y) < 63)
    seen = side.depth_m_THW[0][y[is_inside].astype(int), x[is_inside].astype(int)]
    assert np.mean(seen < 1.05 * ahead[is_inside]) == 1, "nothing is seen through the floor"
    assert np.mean(np.abs(seen - ahead[is_inside]) < 0.05) > 0.7, "and most of it is in front of nothing"


@needs_mujoco
def test_a_seed_is_one_clip_and_another_is_another():
    config = TableConfig(num_frames=6)
    first, again, other = (open_world(config).clip(seed) for seed in (0, 0, 1))
    for one, same, different in zip(first.views, again.views, other.views, strict=True):
        assert np.array_equal(one.pictures_THW3, same.pictures_THW3)
        assert not np.array_equal(one.pictures_THW3, different.pictures_THW3)
    assert first.action == again.action and first.state == again.state


@needs_mujoco
def test_the_hand_of_the_table_goes_as_fast_as_it_is_told_and_pushes_by_contact():
    config = TableConfig(num_frames=25)
    world = open_world(config)
    block = world.clip(0).states["block0_m_T3"]
    hand = world.clip(0).states["qpos_TQ"][0, :2]
    way = (block[0, :2] - hand) / np.linalg.norm(block[0, :2] - hand)
    clip = played(config, np.tile(0.4 * way, (25, 1)))
    went = np.diff(clip.states["qpos_TQ"][:4, :2], axis=0) * config.fps
    assert np.abs(went[1:] - 0.4 * way).max() < 0.02, "metres a second, before it touches"
    pushed = clip.states["block0_m_T3"][-1] - block[0]
    assert pushed[:2] @ way > 0.05
    still = played(config, np.zeros((25, 2)))
    assert np.abs(np.diff(still.states["qpos_TQ"], axis=0)).max() < 2e-3, "nothing moves by itself"


@needs_mujoco
def test_policies_of_the_table_push():
    for policy in ("random", "scripted"):
        world = open_world(TableConfig(num_frames=49, policy=policy, height_px=8, width_px=8))
        ways = [np.ptp(world.clip(seed).states["block0_m_T3"], axis=0).max() for seed in range(3)]
        assert np.median(ways) > 0.05, (policy, ways)


@needs_mujoco
def test_the_arm_carries_a_block():
    world = open_world(ArmConfig(height_px=8, width_px=8, cameras=("top",)))
    for seed in range(3):
        clip = world.clip(seed)
        block = clip.states["block0_m_T3"]
        assert block[:, 2].max() > 0.1, "it was lifted"
        assert np.linalg.norm(block[-1, :2] - block[0, :2]) > 0.1 and block[-1, 2] < 0.05, "and put down elsewhere"
        assert clip.action and clip.action.names == ("shoulder", "elbow", "lift", "gripper")
        assert clip.action.units == ("rad", "rad", "m", "m")
        assert clip.state and clip.state.names[:3] == ("shoulder", "elbow", "lift")
        assert np.allclose(clip.state.values_ND()[:, 0], clip.states["qpos_TQ"][:, 0])


@needs_mujoco
def test_any_model_is_played(pendulum: MujocoConfig):
    world: Any = open_world(pendulum)
    clip = world.clip(0)
    assert clip.action and clip.action.names == ("swing",) and clip.action.units == ("rad",)
    assert clip.action.embodiment == "pendulum"
    assert max(np.ptp(world.clip(seed).action.values) for seed in range(3)) > 0.5
    assert np.abs(clip.action.values).max() <= 1
    assert [view.name for view in clip.views] == ["fixed", "riding"]
    fixed, riding = (view.camera for view in clip.views)
    assert fixed and riding and len(fixed.extrinsics) == 12 and len(riding.extrinsics) == 12 * 13
    assert clip.instance_names == ("background", "floor", "pole")
    [alone] = open_world(replace(pendulum, cameras=("riding",))).clip(0).views
    assert np.array_equal(alone.pictures_THW3, clip.views[1].pictures_THW3)
    noisy = open_world(replace(pendulum, initial_noise=0.5))
    begun = [float(noisy.clip(seed).states["qpos_TQ"][0, 0]) for seed in range(2)]
    assert begun[0] != begun[1] and max(map(abs, begun)) <= 0.5


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the working folder."""
    (tmp_path / "my_policies.py").write_text(
        "def swing(observation, step, generator):\n"
        "    assert observation.time_sec > 0 or step == 0\n"
        "    return [0.5 if observation.places_m['pole'][2] > 0 and step % 2 else generator.uniform(-1, 0)]\n"
        "def wide(observation, step, generator):\n"
        "    return [0.0, 1.0]\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_policies"
    sys.modules.pop("my_policies", None)


@needs_mujoco
def test_a_function_is_a_policy(pendulum: MujocoConfig, policies: str):
    clip = open_world(replace(pendulum, policy=f"{policies}:swing")).clip(0)
    assert clip.action is not None
    values = np.array(clip.action.values)
    assert (values[1::2] == 0.5).all() and (values[::2] < 0).all() and len(set(values[::2])) > 3
    again = open_world(replace(pendulum, policy=f"{policies}:swing")).clip(0)
    assert again.action == clip.action
    with pytest.raises(DataError, match=r"my_policies:wide gives \[0.0, 1.0\] in step 0; give 1 finite numbers"):
        open_world(replace(pendulum, policy=f"{policies}:wide")).clip(0)
    with pytest.raises(DataError, match="my_policies:number is no function, but int"):
        open_world(replace(pendulum, policy=f"{policies}:number"))
    with pytest.raises(DataError, match="policy=nowhere:act can not be imported"):
        open_world(replace(pendulum, policy="nowhere:act"))


@needs_mujoco
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"xml": ""}, "mujoco.xml='' is no file"),
        ({"cameras": ("side",)}, "'side' is no camera of the model; use fixed, riding"),
        ({"policy": "scripted"}, "mujoco.policy=scripted is neither random nor module:function"),
    ],
)
def test_what_can_not_be_played(pendulum: MujocoConfig, change: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        open_world(replace(pendulum, **change))


@needs_mujoco
def test_models_without_what_is_needed(tmp_path: Path):
    for text, said in (
        ("<mujoco><worldbody/></mujoco>", "has no camera"),
        ("<mujoco><worldbody><camera/></worldbody></mujoco>", "has no actuator"),
        ("<mujoco><worldbody><camera sensorsize='1 1' focal='1 1'/></worldbody></mujoco>", "not read yet"),
        ("<robot", "is no model that MuJoCo reads"),
    ):
        (tmp_path / "model.xml").write_text(text)
        with pytest.raises(DataError, match=said):
            open_world(MujocoConfig(xml=str(tmp_path / "model.xml")))


@needs_mujoco
def test_a_folder_has_all_views_with_their_cameras_and_labels(tmp_path: Path):
    config = ArmConfig(num_frames=5)
    manifest = simulate(tmp_path / "arm", SimulationRequest(world=config, num_train=2))
    assert list(check_manifest(manifest)) == []
    clip = open_world(config).clip(1)
    row = manifest[1]
    assert [row.view, *(view.view for view in row.views)] == ["front", "side", "top"]
    assert [row.camera, *(view.camera for view in row.views)] == [view.camera for view in clip.views]
    assert (row.action, row.state, row.caption) == (clip.action, clip.state, clip.caption)
    for view in row.each_view():
        labels = read_labels(view)
        assert labels["depth_m_VTHW"].shape == labels["instances_VTHW"].shape == (3, 5, 32, 32)
        assert np.array_equal(labels["block0_m_T3"], clip.states["block0_m_T3"])


@needs_mujoco
def test_another_model_of_the_same_name_is_refused(pendulum: MujocoConfig, tmp_path: Path):
    request = SimulationRequest(world=replace(pendulum, num_frames=2), num_train=1)
    simulate(tmp_path / "world", request)
    before = open_world(request.world)
    Path(pendulum.xml).write_text(PENDULUM.replace('kp="20"', 'kp="30"'))
    assert open_world(request.world) is not before, "it is read again"
    with pytest.raises(DataError, match=r"was begun with mujoco.xml sha256="):
        simulate(tmp_path / "world", request)
    with pytest.raises(DataError, match="is no file"):
        simulate(tmp_path / "new", replace(request, world=replace(pendulum, xml="no.xml")))
    assert not (tmp_path / "new").exists()


@needs_mujoco
def test_another_policy_or_renderer_does_not_go_on_with_what_a_kill_left(
    pendulum: MujocoConfig, policies: str, tmp_path: Path
):
    world = replace(pendulum, num_frames=2, policy=f"{policies}:swing")
    folder, request = tmp_path / "world", SimulationRequest(world=world, num_train=1)
    simulate(folder, request)
    (folder / "manifest.arrow").unlink()
    stored = json.loads((folder / "settings.json").read_text())
    renderer = found_renderer()
    assert stored["mujoco.renderer"] == renderer, "and not auto, which is another one elsewhere"
    simulate(folder, replace(request, world=replace(world, renderer=renderer)))
    (folder / "settings.json").write_text(json.dumps(stored | {"mujoco.renderer": "another"}))
    with pytest.raises(DataError, match=f"begun with mujoco.renderer=another, and this asks for .*={renderer}; choose"):
        simulate(folder, request)
    (folder / "settings.json").write_text(json.dumps(stored))
    with (tmp_path / "my_policies.py").open("a") as file:
        file.write("# what it does may be another thing now\n")
    with pytest.raises(DataError, match=r"was begun with mujoco.policy sha256=\w{64}, and this asks for"):
        simulate(folder, request)


@needs_mujoco
def test_actions_that_do_not_fit_are_refused(pendulum: MujocoConfig):
    world: Any = open_world(pendulum)
    for shape in ((12, 1), (13, 2), (13,)):
        with pytest.raises(DataError, match=r"are not num_frames=13 or more, of 1 numbers .* give \[13, 1\]"):
            world.played(0, np.zeros(shape))


@pytest.mark.skipif(find_spec("mujoco") is None, reason=f"MuJoCo is not installed: {PACKAGE}")
def test_a_renderer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(renderers, "LIBRARIES", {"egl": "libNoSuchEGL.so.1", "osmesa": "libNoSuchOSMesa.so.8"})
    with pytest.raises(DataError) as caught:
        open_world(TableConfig(num_frames=3))
    assert "libNoSuchEGL.so.1 or libNoSuchOSMesa.so.8, which is not here" in str(caught.value)
    assert LIBRARY_PACKAGES in str(caught.value)
    with pytest.raises(DataError, match="renderer=osmesa needs libNoSuchOSMesa"):
        open_world(TableConfig(num_frames=3, renderer="osmesa"))


@pytest.mark.long
@needs_mujoco
def test_a_worker_that_dies_is_said_with_the_remedy(pendulum: MujocoConfig, policies: str, tmp_path: Path):
    """A process of the pool that ends in the midst of a clip, as one that is killed for memory does."""
    with (tmp_path / "my_policies.py").open("a") as file:
        file.write("def die(observation, step, generator):\n    import os; os._exit(1)\n")
    world = replace(pendulum, policy=f"{policies}:die")
    with pytest.raises(DataError, match="was killed, or its renderer crashed") as caught:
        simulate(tmp_path / "world", SimulationRequest(world=world, num_train=2), num_workers=2)
    assert "the same command goes on where it was" in str(caught.value)
    assert not (tmp_path / "world/manifest.arrow").exists()
