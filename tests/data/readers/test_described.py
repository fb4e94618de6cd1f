from dataclasses import replace
from pathlib import Path

import pytest

from cosmos_data.errors import DataError
from cosmos_data.location import VideoFile
from cosmos_data.readers.described import described, file_of, video_of


def test_what_is_ours_and_what_is_not():
    values, foreign = described(b'{"caption": "a", "split": null, "views": [{"view": "b", "caption": null}], "url": 3}')
    assert values == {"caption": "a", "views": [{"view": "b"}]}
    assert foreign == ["url"]


@pytest.mark.parametrize("key", ["captions_", "actions", "num_frame", "view_s", "ego_trajektory"])
def test_a_misspelled_key_is_asked_about(key):
    with pytest.raises(DataError, match="may be meant"):
        described(f'{{"{key}": null}}'.encode())


@pytest.mark.parametrize("key", ["stats", "stage", "status"])
def test_keys_of_others_are_passed_over(key):
    assert described(f'{{"{key}": 1}}'.encode()) == ({}, [key])


def test_a_state_is_read_as_an_action_is():
    signal = '{"names": ["x"], "units": ["m"], "rate_hz": 5, "frame_of_reference": "base", "values": [1, 2]'
    text = f'{{"state": {signal}}}, "action": {signal}, "embodiment": "arm"}}}}'
    source = video_of("a", {"": VideoFile("/a.mp4")}, described(text.encode())[0], None, 0)
    assert source.state is not None and source.action is not None
    assert source.action == replace(source.state, embodiment="arm") and source.state.values == (1.0, 2.0)


def test_a_source_has_the_files_and_what_is_said_of_each():
    files = {"": VideoFile("/a.mp4"), "left": VideoFile("/b.mp4")}
    values = {"caption": "a", "views": [{"view": "left", "start_frame": 3}, {"path": "c.mp4", "view": "c"}]}
    source = video_of("a", files, values, Path("/d"), 0)
    said = [(view.file.path, view.view, view.start_frame, view.caption) for view in source.views]
    assert said == [("/a.mp4", "", 0, "a"), ("/b.mp4", "left", 3, ""), ("/d/c.mp4", "c", 0, "")]
    with pytest.raises(DataError, match="no video of view 'right'"):
        video_of("a", files, {"views": [{"view": "right"}]}, None, 0)


def test_files_of_a_listing(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file_of("~/a.mp4", Path("/d")).path == f"{tmp_path}/a.mp4"
    assert file_of("~a.mp4", Path("/d")).path == "/d/~a.mp4"
    assert file_of("/x/a.mp4", Path("/d")).path == "/x/a.mp4"
    (tmp_path / "a\\b.mp4").write_bytes(b"1")
    assert file_of("a\\b.mp4", tmp_path).path == str(tmp_path / "a\\b.mp4")
