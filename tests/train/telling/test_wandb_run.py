"""W&B, its real client: offline files read back, `wandb sync` of them, and a run online, both with a server here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wandb_files
from support.wandb_server import API_KEY, WandbServer, serving

from cosmos_train.config.environment import WandbMode
from cosmos_train.train.config import TrackingConfig
from cosmos_train.train.signals import DONE, STOPPED
from cosmos_train.train.telling import wandb_run
from cosmos_train.train.telling.wandb_run import ResultTable, WandbRun, choose_id, choose_mode

ID = "abcd1234"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    import wandb

    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb"))

    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # it reads the environment once
        yield server
        wandb.teardown()


def log_steps(
    run_dir: Path,
    steps: range,
    *,
    first_row: int,
    exit_code: int = DONE,
    config: Any = None,
    mode: WandbMode = "offline",
) -> None:
    """One start of a run, whose loss at a step tells the start, too."""
    run = WandbRun(run_dir, TrackingConfig(), run_id=ID, config=config or {"seed": 1}, first_row=first_row, mode=mode)
    for step in steps:
        run.log(step, {"loss": losses_of(steps)[step]})
    run.finish(exit_code)


def losses_of(steps: range) -> dict[int, float]:
    return {step: 100.0 * steps.start + step for step in steps}


def test_the_id_is_made_once_and_a_checkpoints_copy_decides(tmp_path: Path):
    first = choose_id(tmp_path, None)
    assert first and choose_id(tmp_path, None) == first, "a crash before the first checkpoint"
    assert choose_id(tmp_path, "fromckpt") == choose_id(tmp_path, None) == "fromckpt"
    (tmp_path / "wandb_id").write_text("")  # the machine crashed while it was written
    assert choose_id(tmp_path, None) not in ("", "fromckpt")


def test_offline_files_of_all_starts_are_one_run_with_rolled_back_steps_twice(tmp_path: Path):
    log_steps(tmp_path, range(1, 5), first_row=0, exit_code=1)
    log_steps(tmp_path, range(3, 7), first_row=4, exit_code=STOPPED, config={"model": {"width": 64}, "start": {"a": 1}})
    first, second = wandb_files.read(tmp_path)
    assert first.run_id == second.run_id == ID
    assert first.losses == losses_of(range(1, 5)) and second.losses == losses_of(range(3, 7)), "no step was refused"
    assert [row["_step"] for row in (*first.history, *second.history)] == list(range(8))
    assert (first.exit_code, second.exit_code) == (1, STOPPED) and second.of("preempting")
    assert second.config["model"] == {"width": 64} and second.config["start"] == {"a": 1}
    drawn_over = {metric.get("glob_name"): metric.get("step_metric") for metric in first.of("metric")}
    assert drawn_over["*"] == "step"


def test_wandb_sync_puts_all_starts_together_in_their_order(tmp_path: Path, server: WandbServer):
    log_steps(tmp_path, range(1, 5), first_row=0)
    run = WandbRun(tmp_path, TrackingConfig(), run_id=ID, config={}, first_row=4, mode="offline")
    run.log_results(4, ResultTable("evaluation", ("clip", "error"), [["a", 0.5]], ["evaluation.json"]))
    run.finish(DONE)
    log_steps(tmp_path, range(3, 7), first_row=5)
    folders = sorted(map(str, tmp_path.glob("wandb/offline-run-*")), reverse=True)
    command = [sys.executable, "-m", "wandb", "sync", *folders]
    subprocess.run(command, env=os.environ | {"WANDB_RESUME": "allow"}, check=True, capture_output=True, cwd=tmp_path)
    told = [(row["_step"], row["step"], row.get("loss")) for row in server.history[ID]]
    logged = [*losses_of(range(1, 5)).items(), (4, None), *losses_of(range(3, 7)).items()]
    assert told == [(row, *step_and_loss) for row, step_and_loss in enumerate(logged)]
    [table] = [content for name, content in server.files.items() if name.endswith(".table.json")]
    assert json.loads(table) == {"columns": ["clip", "error"], "data": [["a", 0.5]]}
    assert server.config[ID]["seed"]["value"] == 1


def test_online_a_run_goes_on_and_its_alerts_arrive(tmp_path: Path, server: WandbServer):
    log_steps(tmp_path, range(1, 5), first_row=0, exit_code=STOPPED, mode="online")
    run = WandbRun(tmp_path, TrackingConfig(), run_id=ID, config={}, first_row=0, mode="online")  # in an empty folder
    run.log(3, {"loss": 0.5})
    run.alert("slow", "step 3: slower than before")
    run.finish(DONE)
    assert [(row["_step"], row["step"]) for row in server.history[ID]] == [*((s - 1, s) for s in range(1, 5)), (4, 3)]
    assert server.exit_codes[ID] == [STOPPED, DONE]
    [alert] = server.alerts
    assert (alert["title"], alert["text"]) == ("slow", "step 3: slower than before")


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_API_KEY", "too short"), ("WANDB_BASE_URL", "http://127.0.0.1:9")],
    ids=["key", "network"],
)
def test_where_online_fails_the_run_goes_on_offline(
    tmp_path: Path,
    server: WandbServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
):
    monkeypatch.setenv(name, value)
    monkeypatch.setitem(wandb_run.DEFAULTS, "init_timeout", 2.0)
    log_steps(tmp_path, range(1, 3), first_row=0, mode="online")
    assert "W&B can not be started online: " in caplog.text
    [start] = wandb_files.read(tmp_path)
    assert start.run_id == ID and start.losses == losses_of(range(1, 3)) and not server.history


def test_the_key_is_in_no_file_and_no_output(tmp_path: Path, server: WandbServer, capfd: pytest.CaptureFixture[str]):
    log_steps(tmp_path, range(1, 3), first_row=0)
    log_steps(tmp_path, range(3, 5), first_row=2, mode="online")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".wandb"]) == 2
    assert [path for path in files if API_KEY.encode() in path.read_bytes()] == []
    shown = capfd.readouterr()
    assert API_KEY not in shown.out + shown.err


# What the environment says.


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which nobody has told W&B anything, and no variable does."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


KEY = {"WANDB_API_KEY": API_KEY}
MODES = {
    "nothing": ({}, "auto", "offline"),
    "an empty key": ({"WANDB_API_KEY": ""}, "auto", "offline"),
    "a key": (KEY, "auto", "online"),
    "a key, empty variables": (KEY | dict.fromkeys(("WANDB_MODE", "WANDB_RUN_ID", "WANDB_DIR"), ""), "auto", "online"),
    "a key, offline": (KEY | {"WANDB_MODE": "offline"}, "auto", "offline"),
    "a key, dryrun": (KEY | {"WANDB_MODE": "dryrun"}, "auto", "offline"),
    "a key, disabled": (KEY | {"WANDB_MODE": "disabled"}, "auto", "disabled"),
    "online without a key": ({"WANDB_MODE": "online"}, "auto", "online"),
    "the configuration over the environment": (KEY | {"WANDB_MODE": "offline"}, "online", "online"),
    "offline by the configuration": (KEY | {"WANDB_MODE": "online"}, "offline", "offline"),
    "disabled by the configuration": (KEY | {"WANDB_MODE": "online"}, "disabled", "disabled"),
}


@pytest.mark.parametrize(("variables", "tracking", "mode"), MODES.values(), ids=MODES)
def test_the_mode(nowhere: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], tracking: Any, mode: str):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert choose_mode(TrackingConfig(wandb=tracking)).mode == mode


def test_a_login_counts_and_wandb_offline_stands_over_it(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    import wandb

    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    (nowhere / "netrc").write_text(f"machine wandb.example.org\n  login user\n  password {API_KEY}\n")
    chosen = choose_mode(TrackingConfig())
    assert (chosen.mode, chosen.why) == ("online", "`wandb login` was done for https://wandb.example.org")
    subprocess.run([sys.executable, "-m", "wandb", "offline"], check=True, capture_output=True)
    wandb.teardown()
    assert choose_mode(TrackingConfig()).mode == "offline"
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    assert choose_mode(TrackingConfig()).mode == "offline", "whatever key there is"


def test_a_run_is_called_what_the_environment_says(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    told = {"PROJECT": "my-project", "NAME": "my-name", "RUN_GROUP": "my-group", "TAGS": "a,b", "ENTITY": "my-team"}
    for name, value in told.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    log_steps(nowhere / "run", range(1, 2), first_row=0)
    [start] = wandb_files.read(nowhere / "run")
    [run] = start.of("run")
    assert (run["project"], run["display_name"], run["run_group"], run["entity"]) == (
        "my-project",
        "my-name",
        "my-group",
        "my-team",
    )
    assert run["tags"] == ["a", "b"]


def test_a_run_is_called_after_its_folder_where_nobody_says(nowhere: Path):
    log_steps(nowhere / "run", range(1, 2), first_row=0)
    [run] = wandb_files.read(nowhere / "run")[0].of("run")
    assert (run["project"], run["display_name"]) == ("cosmos-train", "run")


def test_the_project_of_the_configuration_stands_over_the_environment(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_PROJECT", "of-the-shell")
    monkeypatch.setenv("WANDB_DIR", str(nowhere / "elsewhere"))
    (nowhere / "elsewhere").mkdir()
    run = WandbRun(nowhere, TrackingConfig(project="of-the-run"), run_id=ID, config={}, first_row=0, mode="offline")
    run.finish(DONE)
    [start] = wandb_files.read(nowhere / "elsewhere")
    assert start.of("run")[0]["project"] == "of-the-run" and not (nowhere / "wandb").exists()


def test_an_id_of_the_environment_is_the_first_starts_alone(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("WANDB_RUN_ID", "sweep123")
    assert choose_id(nowhere, None) == "sweep123" and not caplog.text
    monkeypatch.setenv("WANDB_RUN_ID", "sweep456")
    assert choose_id(nowhere, None) == "sweep123"
    assert "WANDB_RUN_ID=sweep456 is left aside: all starts of this run are W&B run sweep123" in caplog.text


def test_wandb_resume_is_kept_at_the_first_start_and_later_ones_go_on(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("WANDB_RESUME", "never")
    log_steps(tmp_path, range(1, 3), first_row=0, mode="online")
    log_steps(tmp_path, range(3, 5), first_row=2, mode="online")
    assert [row["step"] for row in server.history[ID]] == [1, 2, 3, 4] and "can not be started" not in caplog.text
    log_steps(tmp_path, range(5, 7), first_row=0, mode="online")
    assert "W&B can not be started online" in caplog.text, "the id is there already, and never means never"
    assert len(server.history[ID]) == 4
