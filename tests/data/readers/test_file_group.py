import pytest

from cosmos_data.location import VideoFile
from cosmos_data.readers.file_group import FileGroup, Named, read_group, stem_and_suffix
from cosmos_data.readers.found import BadVideo, FoundVideo, LeftOut


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.mp4", ("a", ".mp4")),
        ("A.b.MP4", ("A.b", ".mp4")),
        ("a.mp4.txt", ("a", ".txt")),
        ("a.v1.txt", ("a.v1", ".txt")),
        ("a.MKV.JSON", ("a", ".json")),
        ("a", ("a", "")),
        (".mp4", (".mp4", "")),
    ],
)
def test_stem_and_suffix(name, parts):
    assert stem_and_suffix(name) == parts


def sample_of(folder, **texts: str) -> FileGroup:
    sample = FileGroup(name="a", where="here", folder=folder)
    sample.videos[""].append(Named(name="a.mp4", file=VideoFile("/a.mp4")))
    for number, (suffix, text) in enumerate(texts.items()):
        name = f"a.{suffix.replace('_', '.')}"
        path = folder / f"{number}-{name}"
        path.write_text(text)
        into = sample.descriptions if suffix.endswith("json") else sample.captions[""]
        into.append(Named(name=name, file=VideoFile(str(path))))
    return sample


def test_one_caption_is_taken_and_the_others_are_named(tmp_path):
    source, *others = read_group(sample_of(tmp_path, caption="c", mp4_txt="b", txt="a"))
    assert isinstance(source, FoundVideo) and source.views[0].caption == "a"
    assert sorted((one.path, one.reason) for one in others) == [
        ("a.caption", "a second caption"),
        ("a.mp4.txt", "a second caption"),
    ]


def test_json_goes_before_the_text(tmp_path):
    source, left_out = read_group(sample_of(tmp_path, txt="a", json='{"caption": "b", "uploader": "me"}'))
    assert source.views[0].caption == "b"
    assert isinstance(left_out, LeftOut) and left_out.reason.endswith("uploader")


def test_what_is_wrong_beside_a_video_makes_it_bad(tmp_path):
    [bad] = read_group(sample_of(tmp_path, json='{"acton": {}}'))
    assert isinstance(bad, BadVideo) and "'action' may be meant" in bad.reason
    sample = sample_of(tmp_path, txt="a")
    (tmp_path / "0-a.txt").unlink()
    [bad] = read_group(sample)
    assert isinstance(bad, BadVideo) and "No such file" in bad.reason
