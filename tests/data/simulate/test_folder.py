"""A simulated folder: as of real footage, the same bytes whoever makes it, gone on with after a kill."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.manifests.check import check_manifest
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest
from cosmos_data.sample_plan.plan import cover_windows
from cosmos_data.sample_plan.window import Box
from cosmos_data.sample_plan.window_conditions import conditions_of
from cosmos_data.simulate.config import DiscsConfig, PusherConfig, RoomConfig, WorldConfig
from cosmos_data.simulate.folder import FIRST_HELDOUT_SEED, SimulationRequest, simulate
from cosmos_data.simulate.labels import labels_of_part, read_labels
from cosmos_data.simulate.worlds import open_world
from cosmos_data.videos.written_codecs import PackCodec

REQUEST = SimulationRequest(world=RoomConfig(num_frames=9), num_train=4, num_heldout=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training clips of the room and two held-out ones."""
    folder = tmp_path_factory.mktemp("simulated") / "room"
    simulate(folder, REQUEST)
    return folder


def is_running(process: int) -> bool:
    """Whether it is there, and more of it than an exit code that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("world", [DiscsConfig(num_frames=9), RoomConfig(num_frames=9), PusherConfig(num_frames=9)])
def test_a_folder_is_as_of_real_footage(world: WorldConfig, tmp_path: Path):
    manifest = simulate(tmp_path / "world", SimulationRequest(world=world, num_train=2, num_heldout=2))
    assert [clip.split for clip in manifest] == ["train", "train", "heldout", "heldout"]
    assert manifest[2].clip_id == f"heldout/{FIRST_HELDOUT_SEED}.avi@0"
    assert list(check_manifest(manifest)) == []
    data = DataConfig(manifest="unused", num_frames=9, height_px=32, width_px=32, flip=False)
    for sample in cover_windows(manifest, data, hop_frames=1):
        clip = open_world(world).clip(int(Path(sample.clip.path).stem))
        assert sample.clip.caption == clip.caption
        assert conditions_of(sample).camera == clip.views[0].camera
        assert (sample.clip.action, sample.clip.state) == (clip.action, clip.state)
        video_3THW = PyAVDecoder(1).decode([sample])[0].numpy()
        error = (video_3THW.transpose(1, 2, 3, 0).astype(float) - clip.views[0].pictures_THW3) / 255
        assert -10 * math.log10(np.square(error).mean()) > 20, "MJPEG halves the resolution of colours"


def test_labels_are_those_of_the_frames(folder: Path, tmp_path: Path):
    first = Manifest.read(folder / "manifest.arrow")[0]
    [view] = open_world(REQUEST.world).clip(0).views
    labels = read_labels(first)
    assert set(labels) == {"depth_m_VTHW", "instances_VTHW", "instance_names"}
    assert np.array_equal(labels["depth_m_VTHW"][0], view.depth_m_THW)
    part = read_labels(replace(first, start_frame=2, num_frames=5))
    assert np.array_equal(part["instances_VTHW"], labels["instances_VTHW"][:, 2:7])
    assert labels["instance_names"][4] == "floor"
    (tmp_path / "damaged.npz").write_bytes(b"PK half")
    for path in (folder / "gone.npz", tmp_path / "damaged.npz"):
        with pytest.raises(DataError, match=rf"{path}: the labels of clip train/000000.avi@0 can not be read"):
            read_labels(replace(first, labels_file=VideoFile(str(path))))
    with pytest.raises(DataError, match=r"clip train/000000.avi@0 has no labels; only clips of .*data simulate"):
        read_labels(replace(first, labels_file=None))


@pytest.mark.parametrize(
    "request_",
    [
        PackRequest(height_px=32, width_px=32),
        PackRequest(height_px=32, width_px=32, shard_mib=1),
        PackRequest(codec="copy"),
        PackRequest(codec="copy", shard_mib=1),
    ],
)
def test_packed_clips_keep_their_labels(folder: Path, tmp_path: Path, request_: PackRequest):
    """Two clips of one file: a copy holds all of its labels, and what is encoded again those of its own frames."""
    whole = Manifest.read(folder / "manifest.arrow")[1]
    part = replace(whole, clip_id="part", start_frame=2, num_frames=5, digest="0" * 64, caption="")
    packed = pack_manifest(Manifest((whole, part)), tmp_path / "packed", request_)
    (tmp_path / "packed").rename(tmp_path / "moved")
    packed = Manifest.read(tmp_path / "moved/manifest.arrow")
    assert not any("missing" in finding.text for finding in check_manifest(packed))
    for clip, source in zip(packed, (whole, part), strict=True):
        labels, expected = read_labels(clip), read_labels(source)
        assert clip.labels_file is not None and tmp_path / "moved" == Path(clip.labels_file.path).parent
        assert labels.keys() == expected.keys()
        assert all(np.array_equal(labels[name], array) for name, array in expected.items())


def test_labels_are_cut_and_scaled_with_the_pictures(tmp_path: Path):
    """The 32x32 px in the middle of 48x32 are packed at twice their size."""
    request = SimulationRequest(world=DiscsConfig(num_frames=2, width_px=48), num_train=1)
    world = simulate(tmp_path / "discs", request)
    size = PackRequest(height_px=64, width_px=64, allow_upscale=True)
    [clip] = pack_manifest(world, tmp_path / "packed", size)
    moved_px = (read_labels(world[0])["discs_px_TN2"] - (8, 0)) * 2
    assert np.array_equal(read_labels(clip)["discs_px_TN2"], moved_px)
    labels = {"instances_VTHW": np.arange(12, dtype=np.uint8).reshape(1, 1, 2, 6)}
    small = labels_of_part(labels, Box(top_px=0, left_px=1, height_px=2, width_px=4), 1, 2)
    assert small["instances_VTHW"].tolist() == [[[[8, 10]]]]
    with pytest.raises(DataError, match="instances_VTHW is of pictures of 6x2 px, and a part reaches beyond"):
        labels_of_part(labels, Box(top_px=1, left_px=0, height_px=2, width_px=4), 1, 2)


def test_labels_that_are_missing_are_found_by_a_check(folder: Path):
    clip = Manifest.read(folder / "manifest.arrow")[0]
    gone = replace(clip, labels_file=VideoFile(str(folder / "gone.npz")))
    [finding] = [finding for finding in check_manifest(Manifest((gone,))) if "gone.npz" in finding.where]
    assert finding.level == "warning" and "it is missing, the labels of train/000000.avi@0" in finding.text


BEGIN_AND_WAIT = """
import signal
import sys

from cosmos_data.simulate.config import RoomConfig
from cosmos_data.simulate.folder import SimulationRequest, simulate


def wait_after_3(done: int, of: int) -> None:
    if done == 3:
        print("3 clips are there", flush=True)
        signal.pause()


request = SimulationRequest(world=RoomConfig(num_frames=9), num_train=12, num_heldout=2)
simulate(sys.argv[1], request, num_workers=2, progress=wait_after_3)
"""


def test_what_a_kill_leaves_is_gone_on_with(tmp_path: Path):
    """SIGKILL of a process with two workers in the midst of the clips. They end too, clips that are whole are not made
    again, and the bytes are those of one process that was never killed."""
    request, killed = replace(REQUEST, num_train=12), tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN_AND_WAIT, str(killed)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "3 clips are there\n"
        children = [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.kill()
    until = time.monotonic() + 60
    while any(is_running(child) for child in children):
        assert time.monotonic() < until, "a worker outlives its parent"
        time.sleep(0.01)
    # One whose video had its name when its process was killed, and its row had not.
    (killed / "train/000011.json").unlink(missing_ok=True)
    (killed / "train/000011.avi").write_bytes(b"half a video")
    whole = {path: path.stat().st_mtime_ns for path in killed.glob("*/*.json")}
    assert len(children) >= 2 and len(whole) >= 2 and not (killed / "manifest.arrow").exists()
    told = list[tuple[int, int]]()
    simulate(killed, request, progress=lambda *counts: told.append(counts))
    assert told == [(done, 14) for done in range(len(whole) + 1, 15)]
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    simulate(tmp_path / "straight", request)
    assert contents(killed) == contents(tmp_path / "straight")


def test_another_request_is_refused_with_the_key(folder: Path, tmp_path: Path):
    said = r"was begun with room.scenes=fixed, and this asks for room.scenes=random"
    with pytest.raises(DataError, match=said):
        simulate(folder, replace(REQUEST, world=RoomConfig(num_frames=9, scenes="random")))
    with pytest.raises(DataError, match="was begun with num_train=4, and this asks for num_train=5"):
        simulate(folder, replace(REQUEST, num_train=5))
    with pytest.raises(DataError, match="was begun with world=room, and this asks for world=discs"):
        simulate(folder, replace(REQUEST, world=DiscsConfig()))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already and is no simulated world"):
        simulate(tmp_path, REQUEST)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match=r"notes.txt is a file, and clips go into a folder"):
        simulate(tmp_path / "notes.txt", REQUEST)
    with pytest.raises(DataError, match=r"notes.txt/room can not be made \(Not a directory\); choose another path"):
        simulate(tmp_path / "notes.txt/room", REQUEST)


def test_a_kill_in_the_first_moments_is_gone_on_with(tmp_path: Path):
    """Before the settings have their name there is nothing but the file that was to become them."""
    script = "import sys; from pathlib import Path; from cosmos_data.whole_file import aside_name;"
    script += "aside_name(Path(sys.argv[1])).write_text('{')"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "settings.json")], check=True)
    assert len(list(tmp_path.iterdir())) == 1
    simulate(tmp_path, replace(REQUEST, num_train=1, num_heldout=0))
    assert (tmp_path / "manifest.arrow").exists() and not list(tmp_path.glob(".*.partial"))


def test_the_same_request_again_changes_nothing(folder: Path):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert simulate(folder, REQUEST).digest == Manifest.read(folder / "manifest.arrow").digest
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_seeds_have_other_clips(folder: Path, tmp_path: Path):
    other = simulate(tmp_path / "other", replace(REQUEST, seed=1, num_train=1, num_heldout=0))
    assert json.loads((tmp_path / "other/clips.jsonl").read_text())["path"] == "train/2000000.avi"
    assert other[0].digest not in {clip.digest for clip in Manifest.read(folder / "manifest.arrow")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_train": 0}, "num_train=0 must be at least 1"),
        ({"num_heldout": -1}, "num_heldout=-1 must be at least 0"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_requests_that_can_not_be(change: dict[str, Any], said: str):
    with pytest.raises(DataError, match=said):
        replace(REQUEST, **change)


@pytest.mark.parametrize("fps", [0.0001, 0, -1, 1e9, math.nan, math.inf])
def test_rates_that_no_file_holds(fps: float):
    with pytest.raises(DataError, match=r"fps=.* must lie between 0.1 and 1000"):
        RoomConfig(fps=fps)


@pytest.mark.parametrize("codec", ["mjpeg", "vp9", "h264"])
@pytest.mark.parametrize("fps", [0.1, 1000.0])
def test_the_rates_at_the_ends_are_written(fps: float, codec: PackCodec, tmp_path: Path):
    world = DiscsConfig(num_frames=2, fps=fps)
    [clip] = simulate(tmp_path / "discs", SimulationRequest(world=world, num_train=1, codec=codec))
    assert clip.fps == pytest.approx(fps)
