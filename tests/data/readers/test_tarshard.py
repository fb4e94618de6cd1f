import tarfile
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tars import write_tar

from cosmos_data.errors import DataError
from cosmos_data.readers.tarshard import ShardWriter, grouped, name_fault, read_members


def test_members_are_read_in_place(tmp_path):
    contents = {"a/1.mp4": b"x" * 700, "a/1.txt": b"caption", "a/1.front.mp4": b"y", "2.mp4": b""}
    members = list(read_members(write_tar(tmp_path / "s.tar", contents)))
    assert {member.name: member.file.read_bytes() for member in members} == contents
    groups = {key: [member.suffix for member in group] for key, group in grouped(members).items()}
    assert groups == {"a/1": [".mp4", ".txt", ".front.mp4"], "2": [".mp4"]}


def test_what_belongs_together_need_not_stand_together(tmp_path):
    contents = {"0.mp4": b"a", "1.mp4": b"b", "0.txt": b"c", "1.TXT": b"d", "1.Left.MP4": b"e"}
    groups = grouped(read_members(write_tar(tmp_path / "s.tar", contents)))
    assert [(key, [member.suffix for member in group]) for key, group in groups.items()] == [
        ("0", [".mp4", ".txt"]),
        ("1", [".mp4", ".txt", ".Left.mp4"]),
    ]


def test_tars_that_were_joined_are_read_to_their_end(tmp_path):
    first, second = (write_tar(tmp_path / f"{name}.tar", {f"{name}.mp4": b"x" * 700}).read_bytes() for name in "ab")
    joined = tmp_path / "joined.tar"
    joined.write_bytes(first + second)
    members = list(read_members(joined))
    assert [member.name for member in members] == ["a.mp4", "b.mp4"]
    assert all(member.file.read_bytes() == b"x" * 700 for member in members)
    joined.write_bytes(first + b"what is no tar" * 100)
    with pytest.raises(DataError, match="damaged"):
        list(read_members(joined))


@pytest.mark.parametrize("name", ["../up.mp4", "a/../../up.mp4", "/etc/passwd", "C:/x.mp4", "a\\b.mp4", "a\n.mp4", " "])
def test_hostile_names_are_refused(tmp_path, name):
    assert name_fault(name) is not None
    with pytest.raises(DataError, match=r"member .* (absolute|leads out|empty)"):
        list(read_members(write_tar(tmp_path / "s.tar", {"good.mp4": b"1", name: b"2"})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(DataError, match="is a link or a device"):
        list(read_members(write_tar(tmp_path / "s.tar", {"a.mp4": b""}, kind, linkname="/etc/passwd")))


def test_cut_off_and_no_tar(tmp_path):
    whole = write_tar(tmp_path / "s.tar", {"a.mp4": b"1" * 5000, "b.mp4": b"2" * 5000}).read_bytes()
    for length in (100, 3000, 6000, 9000):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.tar: it is (cut off|no tar, or damaged)"):
            list(read_members(tmp_path / "cut.tar"))
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    with pytest.raises(DataError, match="no tar"):
        list(read_members(tmp_path / "text.tar"))


def test_shards_are_full_and_samples_stay_together(tmp_path):
    writer = ShardWriter(tmp_path, max_bytes=20_000)
    places = {}
    for number in range(9):
        places |= writer.add({f"{number}.mp4": bytes([number]) * 4000, f"{number}.txt": str(number).encode()})
    writer.close()
    shards = sorted(tmp_path.iterdir())
    assert len(shards) == 3
    listed = {member.name: member.file for member in chain.from_iterable(map(read_members, shards))}
    assert listed == places
    for number in range(9):
        assert places[f"{number}.mp4"].read_bytes() == bytes([number]) * 4000
        assert places[f"{number}.mp4"].path == places[f"{number}.txt"].path


def test_equal_contents_give_equal_shards(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        writer = ShardWriter(tmp_path / name, max_bytes=10**6)
        writer.add({"a.mp4": b"1", "a.txt": b"2"})
        writer.close()
    one, two = (tmp_path / name / "shard-000000.tar" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=12)), max_size=6))
def test_fuzz_damaged_headers_give_members_inside_the_file_or_a_data_error(tmp_path, edits):
    content = bytearray(write_tar(tmp_path / "s.tar", {"a.mp4": b"1" * 600, "b.txt": b"2"}).read_bytes()[:4096])
    for place, edit in edits:
        content[place : place + len(edit)] = edit
    path = tmp_path / "fuzzed.tar"
    path.write_bytes(content)
    try:
        members = list(read_members(path))
    except DataError:
        return
    for member in members:
        assert name_fault(member.name) is None
        assert member.file.offset_bytes + member.file.size_bytes <= len(content)
