"""1X: a segment is a video, with the states of its frames; tokens alone are refused by name."""

from pathlib import Path

import numpy as np
import pytest
from support.coded_pictures import numbers_of, write_coded

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import build_manifest

STATES = np.random.default_rng(0).normal(size=(20, 25)).astype(np.float32)
SEGMENTS = np.repeat(np.array([4, 5, 4], dtype=np.int32), (8, 7, 5))


def write_shard(folder: Path, *, num_frames: int = 20, in_folders: bool = False) -> Path:
    """in_folders: as the training split is published, with a folder for each kind of file."""
    places = {kind: folder for kind in ("videos", "robot_states", "segment_indices", "metadata")}
    if in_folders:
        places = {kind: folder / kind for kind in places}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    write_coded(places["videos"] / "video_0.mp4", range(num_frames), fps=30)
    SEGMENTS.tofile(places["segment_indices"] / "segment_idx_0.bin")
    STATES.tofile(places["robot_states"] / "states_0.bin")
    (places["metadata"] / "metadata_0.json").write_text('{"shard_num_frames": 20, "shard_ind": 0}')
    (folder / "metadata.json").write_text('{"num_shards": 1, "query": "", "hz": 30, "num_images": 20}')
    return folder


def test_segments_have_their_frames_and_states(tmp_path):
    write_shard(tmp_path / "train_v2.0_raw", in_folders=True)
    write_shard(tmp_path / "val_v2.0_raw")
    manifest, bad, left_out, *_ = build_manifest(tmp_path, None, None)
    assert not bad and not left_out
    train = [clip for clip in manifest if clip.split == "train"]
    assert [clip.clip_id for clip in train] == [f"train_v2.0_raw/video_0@{start}@0" for start in (0, 8, 15)]
    assert [numbers_of(clip) for clip in train] == [list(range(8)), list(range(8, 15)), list(range(15, 20))]
    for clip, start in zip(train, (0, 8, 15), strict=True):
        assert clip.state is not None and list(clip.faults()) == []
        assert np.array_equal(clip.state.values_ND(), STATES[start : start + clip.num_frames])
        assert clip.state.names[21:23] == ("left_hand_closure", "right_hand_closure") and len(clip.state.units) == 25
        assert clip.state.embodiment == "1x" and clip.state.rate_hz == 30
    assert sum(clip.split == "heldout" for clip in manifest) == 3


def test_a_step_s_action_is_the_state_that_it_leads_to(tmp_path):
    folder = write_shard(tmp_path / "train_v2.0", in_folders=True)
    first, *_ = build_manifest(folder, None, None).manifest
    assert first.action is not None and first.action.embodiment == "1x" and first.split == "train"
    assert np.array_equal(first.action.values_ND(), STATES[[1, 2, 3, 4, 5, 6, 7, 7]])
    [cut, *_] = build_manifest(folder, 5, None).manifest
    assert cut.action is not None and np.array_equal(cut.action.values_ND(), STATES[1:6])


def test_no_clip_goes_over_into_the_next_segment(tmp_path):
    manifest = build_manifest(write_shard(tmp_path / "train"), 5, None).manifest
    assert [numbers_of(clip)[0] for clip in manifest] == [0, 8, 15]
    assert all(clip.num_frames == 5 for clip in manifest)


def test_tokens_alone_are_refused_with_the_remedy(tmp_path):
    folder = write_shard(tmp_path / "train_v2.0", in_folders=True)
    (folder / "videos/video_0.mp4").unlink()
    with pytest.raises(DataError, match=r"its shard has no video \(video_0\)"):
        build_manifest(folder, None, None)
    (folder / "videos/video_0.bin").write_bytes(b"\0" * 64)
    for name in ("videos/video_1.bin", "segment_indices/segment_idx_1.bin", "robot_states/states_1.bin"):
        (folder / name).write_bytes(b"\0" * 64)
    _, bad, left_out, *_ = build_manifest(folder, None, None, max_bad_share=1)
    assert len(bad) == 1 and not left_out
    assert "2 shards of 1X's tokens" in bad[0].reason and "worldmodel_raw_data" in bad[0].reason
    (folder / "robot_states/states_0.bin").unlink()
    write_coded(folder / "videos/video_0.mp4", range(20), fps=30)
    with pytest.raises(DataError, match=r"its shard has no states \(states_0\); fetch it again"):
        build_manifest(folder, None, None)


def test_tokens_of_the_earlier_challenge_are_refused_with_the_remedy(tmp_path):
    for name in ("video.bin", "segment_ids.bin", "actions/joint_pos.bin", "metadata.json"):
        path = tmp_path / "train_v1.1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * 64)
    _, bad, left_out, *_ = build_manifest(tmp_path, None, None, max_bad_share=1)
    assert [one.path for one in bad] == [str(tmp_path / "train_v1.1")] and not left_out
    assert "version 1.1" in bad[0].reason and "worldmodel_raw_data" in bad[0].reason


def test_shards_that_do_not_fit(tmp_path):
    folder = write_shard(tmp_path / "a")
    STATES[:19].tofile(folder / "states_0.bin")
    with pytest.raises(DataError, match=r"it has 20 frames, and states_0.bin 475 values; 25 belong to each"):
        build_manifest(folder, None, None)
    folder = write_shard(tmp_path / "b", num_frames=17)
    manifest, bad, *_ = build_manifest(folder, None, None, max_bad_share=1.0)
    assert len(manifest) == 2 and "it has 2 frames from its start on, its source says 5" in bad[0].reason
