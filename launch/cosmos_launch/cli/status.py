"""`cosmos-train status RUN`: how far a run is, how fast, and what became of it, read from its folder alone."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cosmos_launch.cli.checkpoints import list_damage
from cosmos_launch.pages.run_records import RunRecords, read_records, said
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.train.checkpoint.folder import list_checkpoints, step_of
from cosmos_train.train.telling.rank_times import read_rank_times

NAMES = ("loss", "step_sec", "samples_per_sec", "mfu", "data_wait_share", "peak_host_memory_gib", "peak_gpu_memory_gib")
"""Of the last logged step, where it has them."""


def status(run_dir: Path, *, as_json: bool) -> int:
    """Print it. Raises ConfigError where there is no run."""
    found = read_status(run_dir, read_records(run_dir))
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    last = "  ".join(f"{name} {value:.4g}" for name, value in found["last"].items())
    lines = {
        "run": f"{run_dir}, {found['recipe']}",
        "state": found["state"],
        "step": f"{found['step']} of {found['num_steps']}" + (f"  {last}" if last else ""),
        "left": _hours(found["left_sec"]),
        "starts": f"{found['starts']}, skipped steps {found['skipped_steps']}, crashes {len(found['crashes'])}",
        "alerts": f"{len(found['alerts'])}, the last: {found['alerts'][-1]}" if found["alerts"] else "none",
        "checkpoints": ", ".join(map(str, found["checkpoints"])) or "none",
        "damaged": "; ".join(f"{name}: {reason}" for name, reason in found["damaged"].items()) or "none",
        "slowest": _slowest(found["slowest"]),
    }
    for name, text in lines.items():
        print(f"{name:<12}  {text}")
    for crash in found["crashes"][-3:]:
        print(f"{'crash':<12}  rank {crash['rank']} on {crash['host']}: {crash['sentence']}")
    return 0


def read_status(run_dir: Path, records: RunRecords) -> dict[str, Any]:
    """Return what `status` shows, as plain values. Raises ConfigError where the folder is no run's."""
    if not (run_dir / "run.yaml").is_file():
        raise ConfigError(f"{run_dir} has no run.yaml, so it is no run's folder, or the run has not started yet")
    run = load_run(str(run_dir / "run.yaml"))
    times = read_rank_times(run_dir)
    last = records.steps[-1] if records.steps else {}
    damaged = list_damage(run_dir)
    return {
        "recipe": run.recipe,
        "state": _state(records),
        "step": records.step,
        "num_steps": run.train.num_steps,
        "left_sec": (run.train.num_steps - records.step) * last["step_sec"] if "step_sec" in last else None,
        "last": {name: last[name] for name in NAMES if name in last},
        "starts": sum(event["event"] == "start" for event in records.events),
        "skipped_steps": sum(event["event"] == "skipped" for event in records.events),
        "alerts": [said(event, "sentence") for event in records.events if event["event"] == "alert"],
        "checkpoints": [step_of(folder) for folder in list_checkpoints(run_dir) if folder.name not in damaged],
        "damaged": damaged,
        "slowest": None if times is None else asdict(times.straggler()),
        "crashes": _crashes(run_dir / "slurm" / "crashes.tsv"),
    }


def _state(records: RunRecords) -> str:
    """Of the last event; a run that was killed says nothing, so the age of its last word is told."""
    if not records.events:
        return "has not started"
    age_min = (time.time() - records.last_sec) / 60
    last = next((event for event in reversed(records.events) if event["event"] != "results"), {"event": ""})
    if last["event"] == "failed":
        return f"failed: {said(last, 'error')}"
    word = {"done": "done", "stop": "stopped and saved; the same command goes on"}.get(last["event"])
    return word or f"running, or ended without a word: its last line is {age_min:.1f} min old"


def _slowest(straggler: dict[str, Any] | None) -> str:
    if straggler is None:
        return "not known before the first logged step"
    cost = f"{1000 * straggler['lost_sec']:.1f} ms a step ({straggler['lost_share']:.1%}) more than the median rank"
    return f"rank {straggler['rank']} on {straggler['host']}: {cost}, in {straggler['phase']}"


def _crashes(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    names = ("checkpoint", "host", "rank", "sentence")
    rows = [line.split("\t") for line in path.read_text(errors="replace").splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]  # a crash may tear a line


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "not known before the first logged step"
    return f"{seconds / 3600:.1f} h at the last step's speed" if seconds >= 3600 else f"{seconds / 60:.1f} min"
