"""A file or a folder is complete under its name, or absent."""

from pathlib import Path

import pytest

from cosmos_tok.whole_file import whole_file, whole_folder


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_whole_and_nothing_is_left_of_others(tmp_path: Path):
    folder = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as aside:
        aside.mkdir()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    aside.mkdir()
    (aside / "left by a killed process").touch()
    with whole_folder(folder) as aside:
        aside.mkdir()
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path):
    path = tmp_path / ("é" * 125 + ".txt")
    with whole_file(path) as aside:
        aside.write_text("new")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
