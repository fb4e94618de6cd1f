"""`cosmos-train report`: the page says what the run's folder says, over all its restarts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.page import Page
from support.run_folder import STEP, write_evaluation, write_run

from cosmos_data.videos.media import write_mp4
from cosmos_launch.cli.main import main
from cosmos_train.train.telling.rank_times import RankTimes

FULL = STEP | {"grad_norm": 2.0, "lr": 1e-3, "peak_host_memory_gib": 1.25, "data_wait_share": 0.1, "psnr_db": 30.0}


def start(step: int, layout: str, source: str) -> dict[str, Any]:
    return {"event": "start", "step": step, "layout": layout, "source": source}


def page_of(*run_dirs: Path) -> Page:
    assert main(["report", *map(str, run_dirs)]) == 0
    return Page((run_dirs[0] / "report.html").read_text(encoding="utf-8"))


def test_a_run_with_a_restart_a_crash_and_a_slow_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "my run"
    straggler = {"event": "straggler", "step": 20, "rank": 1, "host": "n2", "phase": "data", "lost_sec": 0.1}
    write_run(
        run_dir,
        start(0, "tp2", "scratch"),
        *(FULL | {"step": step, "loss": 1.0} for step in (10, 20, 30, 40)),
        {"event": "failed", "step": 41, "error": "CheckpointError: the disk is full"},
        start(20, "dp2", "this run's newest checkpoint"),
        FULL | {"step": 30, "loss": 0.25, "peak_gpu_memory_gib": 6.5},
        straggler,
        {"event": "save", "step": 30, "folder": "step-00000030", "blocked_sec": 0.125, "total_sec": 2.5},
        torn='{"step": 4',
    )
    phases = {"data": [0.0, 0.5], "forward": [0.25] * 2, "backward": [0.5, 0.0], "optimizer": [0.25] * 2}
    RankTimes(30, ["n1", "n2"], [0, 0], phases | {"save": [0.0, 0.0]}).write(run_dir)
    (run_dir / "slurm").mkdir()
    (run_dir / "slurm" / "crashes.tsv").write_text("x\tn2\t1\tit was ended by SIGKILL\n")
    (run_dir / "samples").mkdir()
    write_mp4(run_dir / "samples" / "seed-0000.mp4", torch.full((3, 5, 32, 48), 200, dtype=torch.uint8), fps=8)
    (run_dir / "samples" / "torn.mp4").write_bytes(b"no video")
    page = page_of(run_dir)
    assert capsys.readouterr().out == f"{run_dir / 'report.html'}\n"
    for words in (
        *("Run my run", "30 of 100"),
        *("20: started again from this run's newest checkpoint, dp2", "41: failed: CheckpointError: the disk is full"),
        *(
            "samples per second",
            "1.25 GiB",
            "6.50 GiB",
            "2 logged steps do not count",
            "rank 1: 50.0% of a step more than the median, in data",
        ),
        *("The first error: it was ended by SIGKILL", "folder step-00000030, blocked_sec 0.125, total_sec 2.5"),
        *("samples/seed-0000.mp4", "recipe: world_dit"),
    ):
        assert words in page.text, words
    assert "torn.mp4" not in page.text
    loss = page.curves("loss")
    assert loss["my run"] == [(10, 1.0), (20, 1.0), (30, 0.25)], "the branch that counts"
    assert loss["marks"] == [(41, 0), (41, 1), (None, None), (20, 0), (20, 1), (None, None)]
    assert page.curves("psnr_db")["my run"] == [(10, 30.0), (20, 30.0), (30, 30.0)]
    assert page.curves("GiB of a GPU")["my run"] == [(30, 6.5)]
    assert page.curves("seconds of a step by rank")["data"] == [("rank 1", 0.5), ("rank 0", 0.0)]
    hosts = page.text[page.text.index("times it held up") : page.text.index("The slowest hosts first.")]
    assert hosts.split()[-2:] == ["n20.751", "n10.250"], "host, own seconds, how often"


def test_other_runs_add_their_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Each chart has one quantity and a curve for each run, in one order, also where a run lacks it."""
    phases = {"data_sec": 0.5, "forward_sec": 1.0}
    write_run(tmp_path / "a", FULL | phases | {"step": 10}, FULL | phases | {"step": 20, "loss": 0.25})
    write_run(tmp_path / "b", STEP | phases | {"step": 15, "loss": 0.75, "extra": 3.0})
    write_evaluation(tmp_path / "a", 20, model=0.5)
    write_evaluation(tmp_path / "b", 15, model=0.75)
    page = page_of(tmp_path / "a", tmp_path / "b")
    assert "Run a beside b" in page.text and "20 of 100" in page.text
    assert page.curves("loss") == {"a": [(10, 0.5), (20, 0.25)], "b": [(15, 0.75)]}
    assert page.curves("extra") == {"a": [], "b": [(15, 3.0)]}
    assert page.curves("forward_sec") == {"a": [(10, 1.0), (20, 1.0)], "b": [(15, 1.0)]}
    assert page.curves("latent_mse, 1 latent frames given") == {"a": [(20, 0.5)], "b": [(15, 0.75)]}
    assert {"a", "b"} == set(page.values("button", "data-name"))
    alone = page_of(tmp_path / "a")
    assert alone.curves("seconds of a step, by phase") == {
        "data_sec": [(10, 0.5), (20, 0.5)],
        "forward_sec": [(10, 1.0), (20, 1.0)],
    }
    assert alone.curves("latent_mse, 1 latent frames given")["repeating the last frame"] == [(20, 1.5)]
    assert main(["report", str(tmp_path / "a"), str(tmp_path)]) == 2
    assert f"{tmp_path} has no run.yaml, so it is no run's folder" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for place in ("first", "second"):
        write_run(tmp_path / place / "world", STEP | {"step": 10})
    monkeypatch.chdir(tmp_path)
    assert [*page_of(Path("first/world"), Path("second/world")).curves("loss")] == ["first/world", "second/world"]


def test_values_of_one_kind_share_a_chart(tmp_path: Path):
    blocks = {f"blocks/activation_rms/{number:02d}": float(number) for number in range(3)}
    write_run(tmp_path / "run", STEP | blocks | {"step": 10})
    curves = page_of(tmp_path / "run").curves("blocks/activation_rms")
    assert curves == {"00": [(10, 0.0)], "01": [(10, 1.0)], "02": [(10, 2.0)]}


EVENTS = ("start", "failed", "alert", "straggler", "save", "results", "done", "skipped", "another")
NO_VALUES = (None, True, "text", [1], {"a": {}}, 10**400, -1, float("nan"), float("inf"), 1e300)


@pytest.mark.parametrize("value", [*NO_VALUES, "absent"], ids=lambda value: repr(value)[:9])
def test_lines_that_lack_values_or_have_others(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any):
    """Each field of a step in turn, and all fields of every event."""
    names = ("time", *FULL, "tokens_per_sec", "mfu", "data_sec", "forward_sec")
    steps = [FULL | {"step": number, name: value} for number, name in enumerate(names, start=1)]
    of_events = ("time", "source", "layout", "error", "sentence", "host", "files", "folder")
    records = [{"step": 1} | {"event": event} | dict.fromkeys(of_events, value) for event in EVENTS[1:]]
    records = [{"event": "start", "step": 0}, *records, *steps, {"event": "start", "step": len(steps)} | records[0]]
    if value == "absent":
        records = [{name: kept for name, kept in record.items() if kept != value} for record in records]
    run_dir = tmp_path / "run"
    write_run(run_dir, {"event": "start", "step": 0})
    # As they are: without the time that write_run gives them.
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "Run run" in page_of(run_dir).text
    for arguments in ([], ["--json"]):
        assert main(["status", str(run_dir), *arguments]) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_line_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_run(tmp_path / "run", FULL | {"step": 10}, torn='{"torn\n')
    page_of(tmp_path / "run")
    assert caplog.text.count("left out") == 1


def test_a_run_that_has_just_started(tmp_path: Path):
    write_run(tmp_path / "run", start(0, "dp1", "scratch"))
    page = page_of(tmp_path / "run")
    assert "No values yet." in page.text and "No error." in page.text


def test_elsewhere_and_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_run(tmp_path / "run", FULL | {"step": 10})
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file() and not (tmp_path / "run" / "report.html").exists()
    assert main(["report", str(tmp_path)]) == 2
    assert "has no run.yaml, so it is no run's folder" in capsys.readouterr().err
