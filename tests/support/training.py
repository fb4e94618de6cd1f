"""Whole runs of the tiny world model through the loop, on every rank of a pool."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support import tiny_world

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train import checkpoint
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.loop import train


def run_loop(
    cache: Path, run_dir: Path, parallel: ParallelConfig, settings: dict[str, Any], model: dict[str, Any] | None = None
) -> int:
    """Train as `cosmos-train train` does. `settings` overrides the loop; `checkpoint`, `optim`, `run` in it theirs."""
    settings = dict(settings)
    checkpoint_settings, optim = settings.pop("checkpoint", {"every_steps": 2}), settings.pop("optim", {})
    sections = settings.pop("run", {})
    run = tiny_world.make_run(cache, run_dir, parallel, **settings)
    run = dataclasses.replace(
        run,
        checkpoint=CheckpointConfig(**checkpoint_settings),
        optim=dataclasses.replace(run.optim, **optim),
        model=dataclasses.replace(run.model, **(model or {})),
        **sections,
    )
    mesh = init.start(run.parallel, seed=run.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(run, WorldDiTTask(run, mesh), mesh, wandb_online=False, code_version="test")


def chosen_source(run_dir: Path, config: CheckpointConfig) -> checkpoint.Source:
    """Where a run would start from, on this rank of all."""
    return checkpoint.choose_source(run_dir, config, init.start(ParallelConfig(), seed=0))


def failure_of(function: Callable, *arguments: Any) -> tuple[str, str]:
    """(class, message) of what the function raises; empty where it does not."""
    try:
        function(*arguments)
    except Exception as error:  # the test looks at which one it is
        return type(error).__name__, str(error)
    return "", ""


def saved_average(cache: Path, run_dir: Path, parallel: ParallelConfig) -> dict[str, torch.Tensor]:
    """Whole moving averages of the run's newest checkpoint, read into this layout."""
    run = tiny_world.make_run(cache, run_dir, parallel)
    mesh = init.start(parallel, seed=run.seed)
    task = WorldDiTTask(run, mesh)
    folder = checkpoint.newest_checkpoint(run_dir)
    assert folder is not None
    checkpoint.load_weights(folder, task.pieces, mesh, averaged=True)
    return tiny_world.whole_parameters(task, mesh)


def steps(run_dir: Path) -> dict[int, dict[str, float]]:
    """Step -> what metrics.jsonl says of it, without times."""
    timing = ("_sec", "_per_gpu", "_share", "_gib", "time")
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        record["step"]: {name: value for name, value in record.items() if not name.endswith(timing)}
        for record in records
        if "loss" in record
    }


def losses(run_dir: Path) -> dict[int, float]:
    """Step -> loss, of metrics.jsonl; a step that was run twice has its last value."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def events(run_dir: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says besides steps."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "event" in record]
