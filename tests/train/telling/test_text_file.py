"""A small file is complete or absent."""

from pathlib import Path

import pytest

from cosmos_train.train.telling.text_file import write_whole


def test_what_can_not_be_written_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "run.yaml"
    write_whole(path, "seed: 1\n")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half of it \ud800")
    assert path.read_text() == "seed: 1\n" and list(tmp_path.iterdir()) == [path]
