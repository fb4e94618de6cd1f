import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cosmos_data.contents import Content
from cosmos_data.errors import DataError
from cosmos_data.readers.folder import find_videos, is_video, sort_of, walk
from cosmos_data.readers.found import BadVideo, LeftOut


def test_links_are_followed_once(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "deep").mkdir(parents=True)
    (root / "b").mkdir(parents=True)
    for path in (outside / "deep/x.mp4", root / "b/y.mp4", outside / "z.mp4"):
        path.write_bytes(b"1")
    (root / "a").symlink_to(outside)  # comes before b by its name, and is walked after it
    (root / "again").symlink_to(outside / "deep")
    (root / "b/up").symlink_to(root)
    (root / "b/self").symlink_to("self")
    (root / "c.mp4").symlink_to(root / "b/y.mp4")
    (root / "gone.mp4").symlink_to("nowhere")
    found = walk(root)
    assert sorted(found.files) == ["a/deep/x.mp4", "a/z.mp4", "b/y.mp4"]
    reasons = {type(one): sum(type(other) is type(one) for other in found.others) for one in found.others}
    assert reasons == {LeftOut: 4, BadVideo: 1}
    [bad] = [one for one in found.others if isinstance(one, BadVideo)]
    assert bad.path.endswith("gone.mp4") and "where nothing is" in bad.reason


def test_equal_texts_that_a_cache_keeps_once_are_read_for_each_video(tmp_path):
    (tmp_path / "blob").write_text("a car")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).symlink_to(tmp_path / "blob")
    assert sorted(walk(folder).files) == ["a.txt", "b.txt"]


def test_what_the_system_writes_for_itself(tmp_path):
    for name in ("._a.mp4", ".DS_Store", ".git/b.mp4", "__MACOSX/c.mp4", "d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    found = walk(tmp_path)
    assert list(found.files) == ["d.mp4"] and len(found.others) == 4


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    found = walk(tmp_path)
    assert not found.files and "no file" in found.others[0].reason


def test_a_folder_that_may_not_be_read_is_named():
    with TemporaryDirectory() as name:  # not pytest's, which only the user may enter
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").mkdir(mode=0)
        user = os.geteuid()
        try:
            if user == 0:  # root may read everything
                os.seteuid(65534)
            [bad] = walk(folder).others
        finally:
            os.seteuid(user)
    assert isinstance(bad, BadVideo) and "Permission denied" in bad.reason


def test_files_are_sorted_by_content(coded, tmp_path):
    video = coded[0].read_bytes()
    for name in ("a.mp4", "b", "c.bin", "d.mp4.part", "e.txt"):
        (tmp_path / name).write_bytes(video if name != "e.txt" else b"a car")
    (tmp_path / "f.mp4").write_bytes(b"<html>not found</html>")
    (tmp_path / "g.mp4").write_bytes(bytes(600))
    (tmp_path / "h.ts").write_text("export const a = 1;")
    (tmp_path / "i.png").write_bytes(b"\x89PNG")
    (tmp_path / "j.tar").write_bytes(b"no tar")
    sorts = {path.name: sort_of(path) for path in tmp_path.iterdir() if path.name != "e.txt"}
    kinds = {name: sort.kind if isinstance(sort, Content) else type(sort).__name__ for name, sort in sorts.items()}
    assert kinds == {
        "a.mp4": "video",
        "b": "video",
        "c.bin": "video",
        "d.mp4.part": "LeftOut",
        "f.mp4": "BadVideo",
        "g.mp4": "video",  # damaged, perhaps: decoding it tells
        "h.ts": "LeftOut",
        "i.png": "LeftOut",
        "j.tar": "BadVideo",
    }
    assert "web page" in sorts["f.mp4"].reason and "unfinished download" in sorts["d.mp4.part"].reason
    assert is_video(tmp_path / "b") and not is_video(tmp_path / "i.png") and not is_video(tmp_path / "e.txt")
    assert [path.name for path in find_videos(tmp_path)] == ["a.mp4", "b", "c.bin", "f.mp4", "g.mp4"]


def test_no_video_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="holds no video"):
        find_videos(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_videos(tmp_path / "a.txt")
