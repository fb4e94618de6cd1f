import json

import pytest

from cosmos_data.errors import DataError
from cosmos_data.readers.lerobot_info import Info, read_info

GOOD = {
    "codebase_version": "v3.0",
    "fps": 15,
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "features": {
        "observation.images.front": {"dtype": "video", "shape": [48, 64, 3]},
        "observation.images.front_depth": {"dtype": "video"},
        "observation.depthless": {"dtype": "float32", "shape": [1]},
        "action": {"dtype": "float32", "shape": [2, 3], "names": None},
    },
}


@pytest.fixture
def info(tmp_path) -> Info:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    return read_info(tmp_path)


def test_features(info):
    assert info.is_shared and info.fps == 15 and info.chunks_size == 1000
    assert [name for name, feature in info.features.items() if feature.is_depth] == ["observation.images.front_depth"]
    action = info.features["action"]
    assert (action.size, action.is_number, action.dimension_names()) == (6, True, list("012345"))


def test_places_stay_inside_the_folder(info, tmp_path):
    places = {"episode_index": 7, "episode_chunk": 1, "chunk_index": 1, "file_index": 2, "episode_file": 2}
    assert info.path("video_path", places, "cam") == tmp_path / "videos/cam/chunk-001/file-002.mp4"
    with pytest.raises(DataError, match="leads out of the folder"):
        info.path("video_path", places, "../../..")
    with pytest.raises(DataError, match="has no other_path"):
        info.path("other_path", places)
