"""`cosmos-train evaluate world RUN` and `evaluate tokenizer FOLDER VIDEOS`: how good a model is, on held-out clips.

A world model's figures are written as JSON; a tokenizer's also as a page, OUT/report.html.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmos_launch.jobs.tell_wandb import tell_wandb
from cosmos_train.config.errors import ConfigError
from cosmos_train.evaluate import tokenizer
from cosmos_train.evaluate.held_out import run_to_be_judged_on
from cosmos_train.evaluate.world import MODEL, RIVAL, evaluate, require_evaluation
from cosmos_train.parallel import init
from cosmos_train.worlds.file import find_world
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import RunCheckpoint


def evaluate_world(
    path: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    max_windows: int,
    config: str | None = None,
    fps: float | None = None,
    windows_of: Path | None = None,
) -> int:
    """Write what was found as JSON and print it. Returns the exit code."""
    if fps is not None and config is None:
        raise ConfigError(
            f"--fps {fps:g} is of a file that --config describes, and a run has its own rate; leave it out"
        )
    found = find_world(path, overrides, config=config, fps=fps)
    require_evaluation(found, max_windows=max_windows)
    judged_on = None if windows_of is None else run_to_be_judged_on(windows_of, found)
    facts = evaluate(open_world(found), max_windows=max_windows, judged_on=judged_on)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(facts, indent=1))
    if isinstance(found, RunCheckpoint):
        tell_wandb(found.folder, out, found.run.tracking)
    measure, ratio = facts["measure"], facts["ratio"]
    print(
        f"{facts['num_windows']} held-out windows: {measure} {facts[measure][MODEL]:.4f}, repeating the last frame "
        f"{facts[measure][RIVAL]:.4f}, ratio {'none' if ratio is None else f'{ratio:.3f}'}; "
        f"better on {facts['windows_won']} -> {out}"
    )
    init.stop()
    return 0


def evaluate_tokenizer(
    folder: Path, videos: Path, overrides: Sequence[str], *, out: Path, protocol: str | None, fvd_network: Path | None
) -> int:
    """Write OUT/evaluation.json and OUT/report.html. Returns the exit code."""
    from cosmos_launch.pages.tokenizer_page import write_page  # plotly: a world model's evaluation has no page

    result, shown = tokenizer.evaluate_tokenizer(folder, videos, overrides, protocol=protocol, fvd_network=fvd_network)
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1))
    write_page(out / "report.html", result, shown)
    print(f"{_in_words(result['overall'])} -> {out}/report.html")
    return 0


def _in_words(overall: dict[str, Any]) -> str:
    parts = [f"{overall['num_clips']} clips: PSNR {overall['psnr_db']:.2f} dB", f"SSIM {overall['ssim']:.4f}"]
    parts += [f"rFVD {overall['rfvd']:.2f}"] if "rfvd" in overall else ["rFVD not measured (no --fvd-network)"]
    parts += [f"code usage {overall['code_usage']:.1%}"] if "code_usage" in overall else []
    return ", ".join([*parts, f"compression {overall['compression']:.1f}"])
