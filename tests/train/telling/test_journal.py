"""metrics.jsonl over several starts: a torn end is cut off, what was there before is known."""

import json
from pathlib import Path

import pytest

from cosmos_train.train.telling.journal import DAMAGED, Journal, read_records


def write(run_dir: Path, *lines: str) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(lines))


def test_a_torn_line_is_cut_off_and_the_next_is_a_line_of_its_own(tmp_path: Path):
    write(tmp_path, '{"event": "start", "step": 3}\n', '{"step": 4, "loss": 0.5}\n', '{"step": 5, "lo')
    journal = Journal(tmp_path)
    journal.step(5, {"loss": 0.25})
    journal.event("save", step=5, folder="a")
    journal.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r.get("event"), r["step"], r.get("loss")) for r in records] == [
        ("start", 3, None), (None, 4, 0.5), (None, 5, 0.25), ("save", 5, None)
    ]  # fmt: skip
    assert all(record["time"] > 0 for record in records[2:])


def test_what_was_there_before(tmp_path: Path):
    """Of the kinds that are asked for; a run that came from another folder has told up to a row a step there."""
    write(tmp_path, '{"event": "start", "step": 3}\n', '{"step": 4, "loss": 0.5}\n', '{"event": "save", "step": 4}\n')
    journal = Journal(tmp_path)
    assert [event["step"] for event in journal.events("save")] == [4]
    assert [event["event"] for event in journal.events("start", "save")] == ["start", "save"]
    assert journal.num_rows(step=9) == 3 + 3
    journal.close()
    (tmp_path / "new").mkdir()
    assert Journal(tmp_path / "new").num_rows(step=9) == 9


SAVE = b'{"event": "save", "step": 4}\n'


@pytest.mark.parametrize(
    ("damage", "why", "kept"),
    [
        (b'{"event": "save", "ti\n', "not JSON", [4]),
        (bytes(400) + b"\n", "not JSON", [4]),
        (bytes(400) + b'{"event": "save", "step": 5}\n', "not JSON", [5, 4]),  # the next start's line followed
        (b'{"event": "note", "step": 1, "x": "caf\xe9"}\n', "not UTF-8", [4]),
        (b'{"evenu": "save"}\n', "neither a step nor an event", [4]),
        (b'{"event": "save", "step": "4"}\n', "neither a step nor an event", [4]),
        (b'{"event": 5, "step": 4}\n', "neither a step nor an event", [4]),
        (b'{"event": "save", "step": true}\n', "neither a step nor an event", [4]),
        (b'{"event": "save", "step": -1}\n', "neither a step nor an event", [4]),
        (b'{"event": "save", "step": 9223372036854775808}\n', "neither a step nor an event", [4]),
        (b"null\n", "neither a step nor an event", [4]),
        (b"[" * 99999 + b"\n", "not JSON", [4]),
        (b"\r\x0c\xff\xfe\n", "not UTF-8", [4]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_damaged_line_is_set_aside_once_and_named(
    tmp_path: Path, damage: bytes, why: str, kept: list[int], caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event": "start", "step": 3}\n' + damage + SAVE)
    journal = Journal(tmp_path)
    assert [event["step"] for event in journal.events("save")] == kept
    assert journal.num_rows(step=9) == 3 + 2 + len(kept), "as many as were told of, or more"
    assert f"{path}:2: the line is {why} and is set aside in {tmp_path / DAMAGED}" in caplog.text
    [aside] = [json.loads(line) for line in (tmp_path / DAMAGED).read_text().splitlines()]
    assert aside["number"] == 2 and aside["time"] > 0 and aside["content"].encode("latin-1") + b"\n" == damage
    journal.step(5, {"loss": 0.5})
    journal.close()
    caplog.clear()
    Journal(tmp_path).close()
    records, damaged = read_records(path)
    assert not damaged and not caplog.text and [record["step"] for record in records] == [3, *kept, 5]
    assert (tmp_path / DAMAGED).read_text().count("\n") == 1


def test_what_is_damaged_later_is_set_aside_behind_what_was(tmp_path: Path):
    for number in range(2):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(f"damage {number}\n")
        Journal(tmp_path).close()
    lines = (tmp_path / DAMAGED).read_text().splitlines()
    assert [json.loads(line)["content"] for line in lines] == ["damage 0", "damage 1"]


def test_where_nothing_can_be_set_aside_the_run_starts_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, '{"event": "start", "step": 3}\n', "damage\n")
    (tmp_path / DAMAGED).mkdir()
    journal = Journal(tmp_path)
    journal.step(4, {"loss": 0.5})
    journal.close()
    assert "damaged lines stay in it" in caplog.text
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")[0]] == [3, 4]


def test_a_line_is_in_the_file_as_soon_as_it_is_said(tmp_path: Path):
    """A process that is killed has said what it has said; also a last line without its end may be whole."""
    path = tmp_path / "metrics.jsonl"
    journal = Journal(tmp_path)
    journal.step(4, {"loss": 0.5})
    assert [record["step"] for record in read_records(path)[0]] == [4]
    journal.close()
    path.write_text('{"step": 4}\n{"step": 5}')
    assert read_records(path) == ([{"step": 4}, {"step": 5}], [])
