"""Actions that a command is given, as the `Action` of a video: a file, a string of keys, or a manifest's clip.

    PATH.parquet, PATH.csv     a column for each dimension, by its name; or a column `action` of lists
    PATH.npy                   [steps, dimensions], in the order that the model was trained with
    PATH.json                  a list of steps, each a list, or an object of its dimensions by their names; or an object
                               with `values` and what else an `Action` says
    keys:wwaad                 a key a step; a table says which action each key stands for
    MANIFEST#CLIP              what was done in a clip

Step k leads from frame k to frame k + 1 where the rate is the video's: a video of T frames needs T - 1 steps, and one
more that is given is not looked at. What a file does not say (names, units, rate, frame of reference) is taken to be as
the model was trained with; what it says otherwise is refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import yaml

from cosmos_data.config import DataConfig
from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action, num_steps
from cosmos_data.manifests.rows import json_object
from cosmos_data.steering.steered import SteeredVideo, conditions_of_clip, names_clip

KEYS = "keys:"
LISTS_COLUMN = "action"
"""Column of a table whose entries are lists of all dimensions, as LeRobot has it."""

KeyTable = Mapping[str, Sequence[float]]
"""Key -> the action that it stands for."""


def read_action(
    source: str, video: SteeredVideo, data: DataConfig, *, like: Action, keys: KeyTable | None = None
) -> Action:
    """Return the actions of a video, from what a command was given.

    Args:
        source: a file, keys or a clip; see above.
        data: how the model's windows are cut out of clips.
        like: says by names, units, rate, frame of reference and embodiment which actions the model was trained with;
            its values are not looked at.
        keys: what each key of a string of keys stands for.

    Raises:
        DataError: there is nothing at the path, it is empty, not finite or shorter than the video, or its actions are
            others than those the model was trained with.
    """
    try:
        action = _read(source, video, data, like, keys)
        require_like(action, like)
        action = _fitted(action, video)
        for fault in action.faults(video.num_frames, video.fps):
            raise DataError(f"{fault}; correct it")
    except DataError as error:
        raise DataError(f"--actions {source}: {error}") from error
    return action


def read_key_table(path: Path) -> KeyTable:
    """Return what a YAML file of lines such as `w: [0, -1]` says. Raises DataError where it says something else."""
    try:
        # As text: YAML would take the keys y and n for true and false.
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        for key, numbers in table.items():
            if not isinstance(numbers, list):
                raise ValueError(f"{key}: {numbers} is no list")
        return {key: [float(number) for number in numbers] for key, numbers in table.items()}
    except (OSError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"--keys {path} is no table of keys ({reason}); write lines such as w: [0, -1]") from error


def require_like(action: Action, like: Action) -> None:
    """Raise DataError where actions are of another kind than those that a model was trained with."""
    for field in fields(Action):
        given, trained = getattr(action, field.name), getattr(like, field.name)
        if field.name != "values" and given != trained:
            raise DataError(
                f"{field.name} is {_shown(given)}, and the model was trained with {_shown(trained)}; give such actions"
            )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _read(source: str, video: SteeredVideo, data: DataConfig, like: Action, keys: KeyTable | None) -> Action:
    if source.startswith(KEYS):
        return _with_values(like, _values_of_keys(source.removeprefix(KEYS), keys, like))
    if names_clip(source):
        found = conditions_of_clip(source, video, data).action
        if found is None:
            raise DataError("the clip has no actions; name a clip that has some")
        return found
    path = Path(source)
    if not path.is_file():
        raise DataError("it is no file, no clip (MANIFEST#CLIP) and no keys (keys:wwdd)")
    try:
        match path.suffix.lower():
            case ".parquet":
                return _with_values(like, _columns_of(pq.read_table(path), like))
            case ".csv":
                return _with_values(like, _columns_of(pa_csv.read_csv(path), like))
            case ".npy":
                return _with_values(like, _of_npy(path))
            case ".json":
                return _of_json(path, like)
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"it can not be read ({str(error).splitlines()[0]}); write it again") from error
    raise DataError("actions are read of .parquet, .csv, .npy and .json")


def _with_values(like: Action, values: np.ndarray) -> Action:
    """Return actions of a kind. Raises DataError where there are none, or they are of another width."""
    if values.size == 0:
        raise DataError("it is empty; give a step for each frame but the last")
    if values.ndim != 2 or values.shape[1] != len(like.names):
        raise DataError(
            f"its actions are of shape {list(values.shape)}, and the model was trained with {len(like.names)} a step "
            f"({', '.join(like.names)}); give [steps, {len(like.names)}]"
        )
    return replace(like, values=tuple(values.astype(np.float64).ravel().tolist()))


def _columns_of(table: pa.Table, like: Action) -> np.ndarray:
    """Return [N, dimensions] of the columns of these names; other columns, as of time stamps, are passed over."""
    if LISTS_COLUMN in table.column_names and LISTS_COLUMN not in like.names:
        rows = table.column(LISTS_COLUMN).to_pylist()
        if any(not isinstance(row, list) or len(row) != len(like.names) for row in rows):
            raise DataError(
                f"column {LISTS_COLUMN} must hold lists of {len(like.names)} numbers ({', '.join(like.names)})"
            )
        return _numbers(rows, (0, len(like.names)))
    missing = [name for name in like.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"it has no column {', '.join(missing)}, but {', '.join(table.column_names)}; the model was trained with "
            f"{', '.join(like.names)}"
        )
    columns = [_numbers(table.column(name).to_pylist(), (0,)) for name in like.names]
    return np.stack(columns, axis=1)


def _numbers(values: list[Any], empty_shape: tuple[int, ...]) -> np.ndarray:
    """Return float64; what is missing is NaN, which is refused later. ValueError for what is no number."""
    return np.array(values, dtype=np.float64) if values else np.empty(empty_shape)


def _of_npy(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if values.dtype.kind not in "biuf":
        raise DataError(f"it holds {values.dtype}, no real numbers; write float64")
    return values


def _of_json(path: Path, like: Action) -> Action:
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    known = {field.name for field in fields(Action)}
    is_list = text.lstrip().startswith(b"[")
    values = {"values": _steps_of(text)} if is_list else json_object(text)
    unknown = sorted(set(values) - known)
    if unknown or "values" not in values:
        raise DataError(f"it {f'has unknown keys {unknown}' if unknown else 'lacks values'}; keys: {sorted(known)}")
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    kind = replace(like, **(said | {"values": ()}))
    require_like(kind, like)
    array = _array_of(values["values"], kind.names)
    if array.ndim == 1 and len(kind.names) and array.size % len(kind.names) == 0:
        array = array.reshape(-1, len(kind.names))  # flat, as a manifest's row has them
    return _with_values(kind, array)


def _array_of(steps: Any, names: Sequence[str]) -> np.ndarray:
    """Return the steps of a JSON file as numbers. Raises DataError where there is something else among them."""
    if not isinstance(steps, list):
        raise DataError(f"its values are of the kind {type(steps).__name__}; give a list of steps")
    rows = [_row_of(number, step, names) for number, step in enumerate(steps)]
    try:
        # What is missing, null, is NaN and refused later.
        return np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"its steps are no numbers, or of different lengths ({error}); correct them") from error


def _row_of(number: int, step: Any, names: Sequence[str]) -> Any:
    """Return a step in the order of the names; one that is an object has exactly these."""
    if not isinstance(step, dict):
        return step
    if set(step) != set(names):
        raise DataError(f"step {number} has {', '.join(step)}, and the model was trained with {', '.join(names)}")
    return [step[name] for name in names]


def _steps_of(text: bytes) -> Any:
    return json_object(b'{"values": ' + text + b"}")["values"]


def _values_of_keys(text: str, keys: KeyTable | None, like: Action) -> np.ndarray:
    if keys is None:
        raise DataError("what its keys stand for is not said; give --keys TABLE.yaml, such as {w: [0, -1], s: [0, 1]}")
    for key, action in keys.items():
        if len(key) != 1 or len(action) != len(like.names) or not all(map(math.isfinite, action)):
            raise DataError(
                f"key {key!r} stands for {list(action)}; a key is one letter, and its action {len(like.names)} numbers "
                f"({', '.join(like.names)})"
            )
    unknown = sorted(set(text) - set(keys))
    if unknown:
        raise DataError(f"key {unknown[0]!r} stands for nothing; the table has {', '.join(map(repr, keys))}")
    return np.array([keys[key] for key in text], dtype=np.float64)


def _fitted(action: Action, video: SteeredVideo) -> Action:
    """Return as many steps as belong to the video; the last one given stays for those that lead past its last frame.

    Raises DataError where steps are missing that lead to a frame of the video.
    """
    steps_ND = action.values_ND()
    needed = math.ceil((video.num_frames - 1) * action.rate_hz / video.fps - 1e-6)
    if len(steps_ND) < needed:
        raise DataError(
            f"it has {len(steps_ND)} steps, and {needed} lead to the last of {video.num_frames} frames at "
            f"{video.fps:g} per second and {action.rate_hz:g} Hz; give more steps, or a smaller --num-frames"
        )
    expected = num_steps(video.num_frames, video.fps, action.rate_hz)
    held_ND = np.concatenate((steps_ND, np.repeat(steps_ND[-1:], max(0, expected - len(steps_ND)), axis=0)))
    return replace(action, values=tuple(held_ND[:expected].ravel().tolist()))
