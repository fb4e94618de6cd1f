"""What metrics.jsonl says over all starts: steps that were rolled back do not count."""

import json
from pathlib import Path

import pytest
from support.run_folder import STEP, write_run

from cosmos_launch.pages.run_records import read_metrics, read_records


def start(step: int) -> dict[str, object]:
    return {"event": "start", "step": step}


def test_a_step_that_was_trained_again_is_what_it_was_the_last_time(tmp_path: Path):
    first = [STEP | {"step": step, "loss": 1.0} for step in (10, 20, 30)]
    second = [STEP | {"step": step, "loss": 0.5} for step in (20, 30, 40)]
    write_run(tmp_path / "run", start(0), *first, start(10), *second, {"event": "save", "step": 40, "time": 7.0})
    records = read_records(tmp_path / "run")
    assert [(record["step"], record["loss"]) for record in records.steps] == [
        (10, 1.0),
        (20, 0.5),
        (30, 0.5),
        (40, 0.5),
    ]
    assert records.num_rolled_back == 2 and records.step == 40 and records.last_sec == 7.0
    assert [event["event"] for event in records.events] == ["start", "start", "save"]


def test_before_the_first_logged_step_the_start_says_how_far_it_is(tmp_path: Path):
    write_run(tmp_path / "run", start(0), STEP | {"step": 50}, start(40))
    assert read_records(tmp_path / "run").step == 40
    (tmp_path / "new").mkdir()
    assert (read_records(tmp_path / "new").step, read_records(tmp_path / "new").last_sec) == (0, 0.0)


def metrics(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_metrics_are_read(tmp_path: Path) -> None:
    records = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    lines = "\n".join(map(json.dumps, records))
    assert read_metrics(metrics(tmp_path / "a.jsonl", f"{lines}\n")) == records
    assert read_metrics(metrics(tmp_path / "b.jsonl", lines)) == records  # whole, though its newline is lost
    assert read_metrics(metrics(tmp_path / "c.jsonl", "")) == []


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "{", "3", '{"step": 3, "loss": 0.5}}'])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    assert read_metrics(metrics(tmp_path / "metrics.jsonl", '{"step": 1}\n' + torn)) == [{"step": 1}]


@pytest.mark.parametrize("line", ['{"step": 2, "lo', "[1]", "", '{"step": 2}{"step": 3}', "\0" * 400])
def test_any_other_broken_line_is_named_and_left_out(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = metrics(tmp_path / "metrics.jsonl", f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]
    assert f"{path}:2: the line is n" in caplog.text and "left out" in caplog.text
    assert read_metrics(path.with_name("metrics.jsonl")) and path.read_text().count("\n") == 3, "it stays there"
