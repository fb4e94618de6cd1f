"""metrics.jsonl over several starts: a torn end is cut off, what was there before is known."""

import json
from pathlib import Path

from cosmos_train.train.journal import Journal


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
