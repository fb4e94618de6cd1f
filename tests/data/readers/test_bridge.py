"""Bridge: actions are made of states and give them back; splits, captions and the gripper's sense are kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.coded_pictures import numbers_of, write_coded

from cosmos_data.errors import DataError
from cosmos_data.geometry.poses import compose_framewise, poses_of
from cosmos_data.geometry.rotations import from_euler
from cosmos_data.manifests.build import build_manifest, said_of_left_out
from cosmos_data.readers.bridge import actions_T7

BRIDGE = Path(__file__).parent / "formats/bridge"
EPISODES = json.loads((BRIDGE / "expected.json").read_text())["episodes"]


def test_frames_actions_states_and_splits_are_the_episodes():
    manifest, bad, left_out, *_ = build_manifest(BRIDGE / "data", None, None)
    assert not bad and not left_out
    assert [clip.clip_id for clip in manifest] == ["train/0@0", "val/1@0"]
    for clip, episode, split in zip(manifest, EPISODES, ("train", "heldout"), strict=True):
        assert clip.split == split and clip.caption == episode["text"] and clip.fps == episode["fps"]
        assert numbers_of(clip) == episode["codes"]
        assert clip.action is not None and clip.state is not None
        assert list(clip.faults()) == [] and clip.action.rate_hz == episode["fps"]
        assert np.abs(clip.action.values_ND()[:-1] - np.array(episode["actions_recomputed"])).max() < 1e-12
        assert np.array_equal(clip.state.values_ND()[:, :6], np.array(episode["state"])[:, :6])
        assert clip.action.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
        assert clip.action.embodiment == clip.state.embodiment == "bridge"


def test_t_frames_have_t_minus_1_actions_and_the_last_step_leads_nowhere():
    [clip, _] = build_manifest(BRIDGE / "data", None, None).manifest
    assert clip.action is not None and clip.state is not None
    values = clip.action.values_ND()
    assert len(values) == clip.num_frames and not values[-1, :6].any()
    assert values[-1, 6] == clip.state.values_ND()[-1, 6]
    cut = build_manifest(BRIDGE / "data", 5, None).manifest[0]
    assert cut.action is not None and np.array_equal(cut.action.values_ND(), values[:5])
    assert cut.action.values_ND()[-1, :6].any(), "the last step of a part leads to the frame after it"


def test_composed_actions_give_back_the_states():
    states = np.random.default_rng(0).uniform(-1, 1, (20, 7))
    actions = actions_T7(states)
    deltas = poses_of(actions[:-1, :3], from_euler(actions[:-1, 3:6], "xyz"))
    poses = poses_of(states[:, :3], from_euler(states[:, 3:6], "xyz"))
    assert np.abs(compose_framewise(poses[0], deltas) - poses).max() < 1e-12
    assert np.array_equal(actions[:-1, 6], states[1:, 6])


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy whose annotations were changed."""
    shutil.copytree(BRIDGE / "data", folder)
    for path in folder.glob("annotation/*/*.json"):
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    return folder


def turned(values: dict[str, Any]) -> None:
    values["continuous_gripper_state"] = [1 - value for value in values["continuous_gripper_state"]]


def still(values: dict[str, Any]) -> None:
    values["continuous_gripper_state"] = [1.0] * len(values["state"])


def test_the_gripper_counts_as_bridge_says_where_the_grasps_show_it(tmp_path):
    """z falls, then the hand closes. An episode without a grasp has the unit of its data set, and another data set
    decides nothing."""
    shutil.copytree(BRIDGE / "data", tmp_path / "a")
    changed(tmp_path / "b", turned)
    path = tmp_path / "a/annotation/val/1.json"
    values = json.loads(path.read_text())
    still(values)
    path.write_text(json.dumps(values))
    manifest, bad, *_ = build_manifest(tmp_path, None, None, max_bad_share=1.0)
    assert [clip.clip_id for clip in manifest] == ["a/train/0@0", "a/val/1@0"]
    for clip in manifest:
        assert clip.action is not None and clip.state is not None
        assert clip.action.units[6] == clip.state.units[6] == "1 open, 0 closed"
    assert len(bad) == 2 and all("in 0 of 2 grasps of its data set 1 is open before" in one.reason for one in bad)


@pytest.mark.parametrize(("change", "said"), [(turned, "in 0 of 2 grasps"), (still, "in 0 of 0 grasps")])
def test_a_gripper_that_is_not_shown_is_refused_until_it_is_said(tmp_path, change, said):
    folder = changed(tmp_path / "data", change)
    with pytest.raises(DataError, match=rf"{said} .*say which value is open \(--gripper-open 1 or --gripper-open 0\)"):
        build_manifest(folder, None, None)
    for gripper_open, unit in ((0, "0 open, 1 closed"), (1, "1 open, 0 closed")):
        manifest = build_manifest(folder, None, None, gripper_open=gripper_open).manifest
        assert [clip.action and clip.action.units[6] for clip in manifest] == [unit] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values.pop("state"), "it has no state, a row of numbers for each frame"),
        (lambda values: values.pop("continuous_gripper_state"), "it has no continuous_gripper_state"),
        (lambda values: values["state"].pop(), "x y z roll pitch yaw and one gripper are needed for each frame"),
        (lambda values: values.update(state=[[0.0]] * 10), "x y z roll pitch yaw"),
        (lambda values: values["state"][3].__setitem__(2, float("nan")), "state holds NaN or infinity at frame 3"),
        (lambda values: values.update(state="none"), "something else than numbers"),
        (lambda values: values.update(videos=[]), "it names no videos"),
        (lambda values: values.update(videos=3, texts=4), "it names no videos"),
        (lambda values: values["videos"][0].update(video_path="videos/x.mp4"), "videos/x.mp4 is not there"),
    ],
)
def test_what_is_wrong_is_one_bad_episode_each(tmp_path, change, words):
    manifest, bad, *_ = build_manifest(changed(tmp_path / "data", change), None, None, max_bad_share=1.0)
    assert len(manifest) == 0 and len(bad) == 2 and all(words in one.reason for one in bad)


def test_videos_of_other_lengths_or_without_annotation(tmp_path):
    folder = changed(tmp_path / "data", lambda values: None)
    write_coded(folder / "videos/train/0/rgb.mp4", range(9), fps=5)
    write_coded(folder / "videos/train/7.mp4", range(9), fps=5)
    manifest, bad, left_out, *_ = build_manifest(folder, None, None, max_bad_share=1.0)
    assert [clip.clip_id for clip in manifest] == ["val/1@0"]
    assert "9 steps of 7 belong to 9 frames" in bad[0].reason
    assert "a file of Bridge that no annotation names" in "".join(said_of_left_out(left_out))


def test_a_folder_below_may_be_bridge_s(tmp_path):
    changed(tmp_path / "robots/bridge", lambda values: None)
    manifest = build_manifest(tmp_path, None, None).manifest
    assert [clip.clip_id for clip in manifest] == ["robots/bridge/train/0@0", "robots/bridge/val/1@0"]


def test_several_cameras_are_views(tmp_path):
    def add(values: dict[str, Any]) -> None:
        first = values["videos"][0]["video_path"]
        values["videos"].append({"video_path": first.replace("rgb.mp4", "wrist.mp4")})

    folder = changed(tmp_path / "data", add)
    for path in list(folder.glob("videos/*/*/rgb.mp4")):
        shutil.copy(path, path.with_name("wrist.mp4"))
    manifest = build_manifest(folder, None, None).manifest
    assert [[view.view for view in clip.each_view()] for clip in manifest] == [["rgb", "wrist"]] * 2
