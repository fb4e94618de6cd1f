"""Actions and states of a LeRobot folder: which columns of its tables they are, and what is known of each number.

The action is the feature `action`, or else the features `action.NAME` joined in their order; the state likewise of
`observation.state`. GR00T's meta/modality.json names parts of these columns and is the only file of such a folder that
says whether they are absolute, and what a rotation is written as; where it names parts of a signal, they are taken in
its order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action
from cosmos_data.manifests.rows import json_object
from cosmos_data.readers.lerobot_info import INFO, Feature, Info

NOT_STATED = "not stated"
"""LeRobot names an action's dimensions, not their units or their frame of reference."""

MODALITY = "meta/modality.json"
COLUMN = {"action": "action", "state": "observation.state"}
"""The feature of each signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalPart:
    """Some of the numbers of a column."""

    feature: Feature
    start: int
    end: int
    names: tuple[str, ...]
    unit: str = NOT_STATED
    reference: str = NOT_STATED
    """Whether the numbers are absolute or relative, where it is said."""


def with_sizes(info: Info) -> Info:
    """Return a folder's description in which a signal's empty shape is the one that the data tables have: published
    folders write [] for actions of several values, too. Without tables a shape stays as it is."""
    unsaid = [name for name, one in info.features.items() if is_of_signal(name) and one.is_number and not one.shape]
    paths = sorted(info.folder.glob("data/**/*.parquet"))
    if not unsaid or not paths:
        return info
    try:
        table = pq.ParquetFile(paths[0])
        columns = [name for name in unsaid if name in table.schema_arrow.names]
        row = next(table.iter_batches(batch_size=1, columns=columns)).to_pylist()[0]
    except (OSError, StopIteration, pa.ArrowException):
        return info  # each episode of it says so itself
    sizes = {name: len(value) for name, value in row.items() if isinstance(value, list) and value}
    features = {
        name: replace(one, shape=(sizes[name],)) if name in sizes else one for name, one in info.features.items()
    }
    return replace(info, features=features)


def read_modality(info: Info) -> Mapping[str, Any]:
    """Return GR00T's description of the folder; nothing where it has none. DataError where it is damaged."""
    path = info.folder / MODALITY
    if not path.is_file():
        return {}
    try:
        return json_object(path.read_bytes())
    except DataError as error:
        raise DataError(f"{info.where}: {MODALITY}: {error}") from error


def view_names(modality: Mapping[str, Any]) -> dict[str, str]:
    """Return the names that modality.json has for cameras, by their feature."""
    videos = modality.get("video")
    found = {}
    for name, said in videos.items() if isinstance(videos, dict) else ():
        key = said.get("original_key") if isinstance(said, dict) else None
        found[key if isinstance(key, str) else f"observation.images.{name}"] = name
    return found


def signal_parts(info: Info, modality: Mapping[str, Any], signal: Literal["action", "state"]) -> list[SignalPart]:
    """Return the parts of a signal, in their order; none where the folder has no such feature.

    Raises:
        DataError: modality.json names numbers that no feature has.
    """
    said = modality.get(signal)
    if isinstance(said, dict) and said:
        return [_part_of_modality(info, signal, name, one) for name, one in said.items()]
    column = COLUMN[signal]
    if column in info.features:
        return [_whole(info.features[column], signal, column)]
    return [
        _whole(feature, signal, column)
        for name, feature in info.features.items()
        if name.startswith(f"{column}.") and feature.is_number
    ]


def left_unnamed(parts: list[SignalPart]) -> Iterator[Feature]:
    """Yield the features whose names do not fit their values, which are numbered instead."""
    seen = set()
    for part in parts:
        if part.feature.name not in seen and part.feature.dimension_names() is None:
            yield part.feature
        seen.add(part.feature.name)


def left_uncovered(parts: list[SignalPart]) -> Iterator[tuple[Feature, int, int]]:
    """Yield (feature, start, end) of the values that no part has, of the features that some part is of."""
    features = {part.feature.name: part.feature for part in parts}
    for name, feature in features.items():
        end = 0
        for part in sorted((part for part in parts if part.feature.name == name), key=lambda part: part.start):
            if part.start > end:
                yield feature, end, part.start
            end = max(end, part.end)
        if end < feature.size:
            yield feature, end, feature.size


def is_of_signal(name: str) -> bool:
    """Return whether a feature has the name of an action or of a state."""
    return any(name == column or name.startswith(f"{column}.") for column in COLUMN.values())


def signal_of(frames: pa.Table, parts: list[SignalPart], rate_hz: float, embodiment: str) -> Action:
    """Return the signal of an episode. DataError where a column does not hold what is said of it."""
    columns_of: dict[str, np.ndarray] = {}
    for part in parts:
        if part.feature.name not in columns_of:
            columns_of[part.feature.name] = _numbers(frames, part.feature)
    values_TD = np.concatenate([columns_of[part.feature.name][:, part.start : part.end] for part in parts], axis=1)
    names, units = list[str](), list[str]()
    for part in parts:
        names += part.names
        units += [part.unit] * len(part.names)
    return Action(
        names=tuple(names),
        units=tuple(units),
        rate_hz=rate_hz,
        frame_of_reference=_reference(parts),
        values=tuple(values_TD.ravel().tolist()),
        embodiment=embodiment,
    )


def _whole(feature: Feature, signal: str, column: str) -> SignalPart:
    own = feature.dimension_names() or [str(number) for number in range(feature.size)]
    is_named = feature.names is not None and feature.dimension_names() is not None
    part = feature.name.removeprefix(column).removeprefix(".")
    if part:  # one of several
        names = [f"{part}.{name}" if feature.size > 1 or is_named else part for name in own]
    else:
        names = own if is_named else [f"{signal}_{name}" for name in own]
    return SignalPart(feature=feature, start=0, end=feature.size, names=tuple(names))


def _part_of_modality(info: Info, signal: str, name: str, said: Any) -> SignalPart:
    where = f"{info.where}: {MODALITY}, {signal}.{name}"
    if not isinstance(said, dict):
        raise DataError(f"{where} is no object")
    key = said.get("original_key") or COLUMN[signal]
    feature = info.features.get(key) if isinstance(key, str) else None
    if feature is None or not feature.is_number:
        raise DataError(f"{where}: original_key={key!r} is no feature of numbers of {INFO}")
    start, end = said.get("start"), said.get("end")
    if not (type(start) is int and type(end) is int and 0 <= start < end <= feature.size):
        raise DataError(f"{where}: start={start!r} and end={end!r} are no part of the {feature.size} values of {key}")
    own = feature.dimension_names()
    if feature.names is None or own is None:
        own = [str(number - start) for number in range(feature.size)]
    is_absolute = said.get("absolute")
    reference = NOT_STATED
    if isinstance(is_absolute, bool):
        reference = "absolute" if is_absolute else "relative"
    return SignalPart(
        feature=feature,
        start=start,
        end=end,
        names=tuple(f"{name}.{one}" for one in own[start:end]) if end - start > 1 else (name,),
        unit=str(said.get("rotation_type") or NOT_STATED),
        reference=reference,
    )


def _reference(parts: list[SignalPart]) -> str:
    """Return one word where all parts are alike, else one for each."""
    if len({part.reference for part in parts}) == 1:
        return parts[0].reference
    said = [f"{part.names[0].partition('.')[0]} {part.reference}" for part in parts]
    return ", ".join(said)


def _numbers(frames: pa.Table, feature: Feature) -> np.ndarray:
    """Return float64 [frames, values]; a single value may be stored as a number, or as a list of one."""
    try:
        values_TD = np.asarray(frames[feature.name].to_pylist(), dtype=np.float64).reshape(len(frames), -1)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"its {feature.name} has rows that are no numbers, or of different lengths") from error
    if values_TD.shape[1] != feature.size:
        raise DataError(f"its {feature.name} has {values_TD.shape[1]} values a frame; {INFO} says {feature.size}")
    return values_TD
