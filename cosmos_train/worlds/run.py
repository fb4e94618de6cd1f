"""A run's checkpoint as it is found: all that can be checked before its weights are loaded."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmos_train.config.environment import own_ranks
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import find_yaml, load_run, read_values
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.config.validate import check_code_sampling, check_sampling
from cosmos_train.interop.adapter_files import AdapterFile
from cosmos_train.train.checkpoint import folder as folders

WHOLE = (
    "parallel.tp=1",
    "parallel.pp=1",
    "parallel.pp_chunks=1",
    "parallel.pp_first_blocks=null",
    "parallel.pp_last_blocks=null",
    "parallel.cp=1",
    "parallel.sequence_parallel=false",
    "parallel.recompute=none",
    "parallel.precision={recipe: none, amax_history_len: 1024, amax_compute: max}",
)
"""A layout of one process, whatever layout trained the model; overrides stand over it."""


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """A checkpoint of a world model's run."""

    folder: Path
    run: WorldDiTRun | WorldARRun
    """With the overrides of sampling and layout."""
    adapters: tuple[AdapterFile, ...] = ()
    """They are added to its weights."""

    @property
    def path(self) -> Path:
        """Return where its weights lie."""
        return self.folder


def find_run(path: Path, overrides: Sequence[str] = (), *, adapters: Sequence[AdapterFile] = ()) -> RunCheckpoint:
    """Find the checkpoint at a path, or the newest one of the run there.

    Args:
        overrides: sample.key=value and parallel.key=value; sample=NAME takes a file's.
        adapters: are added to its weights.

    Raises:
        CheckpointError, ConfigError: there is no checkpoint, it is no world model's, or an override is of another part.
    """
    folder = folders.resolve(path)
    settings = list[str]()
    for override in overrides:
        if not override.startswith(("sample.", "parallel.", "sample=")):
            raise ConfigError(f"override {override!r}: only sample.key=value and parallel.key=value can be set here")
        settings += _from_file(override)
    run_yaml = str(folder / "run.yaml")
    stored = load_run(run_yaml)
    if not isinstance(stored, WorldDiTRun | WorldARRun):
        raise ConfigError(f"{folder} is of a {stored.recipe} run; only world models can be sampled")
    run = load_run(run_yaml, [*WHOLE, *settings])
    assert isinstance(run, WorldDiTRun | WorldARRun)
    return RunCheckpoint(folder, run, tuple(adapters))


def require_sampling(
    run: WorldDiTRun | WorldARRun, *, num_videos: int, num_frames: int, has_input: bool, has_prompt: bool = False
) -> None:
    """Compare what is asked for with the model and with the ranks that there are.

    Args:
        num_videos: those that are sampled, of all ranks.
        num_frames: pixel frames of each.
        has_input: whether first frames are given.
        has_prompt: whether a text is given to a model that may not read any.

    Raises:
        ConfigError: the run can not be sampled so.
    """
    world_size = own_ranks().world_size
    if isinstance(run, WorldDiTRun):
        check_sampling(run, world_size, num_videos=num_videos, num_frames=num_frames, has_input=has_input)
    else:
        check_code_sampling(
            run,
            world_size,
            num_videos=num_videos,
            num_frames=num_frames,
            has_input=has_input,
            has_prompt=has_prompt,
        )


def _from_file(override: str) -> list[str]:
    """sample=NAME is all that the file has, such as configs/sample/released_2ab.yaml of sample=sample/released_2ab."""
    if not override.startswith("sample="):
        return [override]
    values = read_values(find_yaml(override.removeprefix("sample=")))
    return [f"sample.{key}={json.dumps(value)}" for key, value in values.items()]
