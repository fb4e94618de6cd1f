"""What metrics.jsonl says over all starts: steps that were rolled back do not count."""

from pathlib import Path

from support.run_folder import STEP, write_run

from cosmos_launch.pages.run_records import read_records


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
