"""A run's folder before its training: whose it is, that it can be written, what of the run is kept in it."""

import os
from pathlib import Path
from typing import Any

from cosmos_launch.jobs.code_version import describe_environment, uncommitted_changes
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import read_values, to_yaml
from cosmos_train.config.schema import RunConfig
from cosmos_train.config.yaml_text import parse
from cosmos_train.train.checkpoint.folder import newest_checkpoint
from cosmos_train.train.telling.text_file import write_whole

KEPT = ("seed", "train.global_batch_size", "model", "tokenizer")
"""What checkpoints can not be continued without, of any kind of run."""


def check_run_folder(run: RunConfig) -> None:
    """Raises ConfigError where the folder is another run's, or can not be written. Nothing is written."""
    check_is_same_run(run)
    check_is_writable(Path(run.run_dir))


def check_is_same_run(run: RunConfig) -> None:
    """A folder has one recipe; where it has a checkpoint, also one seed, batch size and architecture."""
    known_yaml = Path(run.run_dir) / "run.yaml"
    if not known_yaml.is_file():
        return
    known, given = read_values(known_yaml), parse(to_yaml(run))
    if known.get("recipe", run.recipe) != run.recipe:  # a crash of an older version may have left it empty
        raise ConfigError(
            f"run_dir={run.run_dir} is the folder of a {known['recipe']} run, and this is a {run.recipe} run; use "
            "another folder"
        )
    checkpoint = newest_checkpoint(Path(run.run_dir))
    for key in KEPT if checkpoint else ():
        before, now = _at(known, key), _at(given, key)
        changed = [name for name in before if name in now and before[name] != now[name]]
        if changed:
            name = changed[0]
            raise ConfigError(
                f"run_dir={run.run_dir} is the folder of a run with {name}={before[name]}, and this run has {name}="
                f"{now[name]}; {checkpoint} can not go on so: set {name}={before[name]}, or use another folder, with "
                f"checkpoint.init_from={run.run_dir} to start from its weights"
            )


def _at(tree: dict[Any, Any], key: str) -> dict[str, Any]:
    """Dotted key -> value, of one value or of all in a section; empty where there is none."""
    value: Any = tree
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, dict):
        leaves = dict[str, Any]()
        for name in value:
            leaves |= _at(tree, f"{key}.{name}")
        return leaves
    return {} if value is None else {key: value}


def check_is_writable(run_dir: Path) -> None:
    """Raises ConfigError where the folder can not be made, or nothing be put into it."""
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        problem = f"{nearest} is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        problem = f"{nearest} can not be written by you (user {os.geteuid()})"
    else:
        return
    raise ConfigError(
        f"run_dir={run_dir}: {problem}, and a run's checkpoints and metrics are written there; set run_dir to a folder "
        "that you may write, on a file system that all nodes see"
    )


def write_run_folder(run: RunConfig) -> None:
    """What the run is reproduced from: resolved YAML, changes to the code, versions of what it stands on."""
    folder = Path(run.run_dir)
    write_whole(folder / "run.yaml", to_yaml(run))
    write_whole(folder / "code.diff", uncommitted_changes())
    write_whole(folder / "environment.txt", describe_environment())
