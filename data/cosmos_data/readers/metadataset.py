"""A metadataset of Megatron-Energon: a YAML file that blends energon folders, level by level.

splits:
  train:
    blend:
      - {weight: 3, path: ./first, split_part: train}
      - {weight: 1, path: ./other.yaml}            another metadataset, whose own weights share this one's
  val: {path: ./first, split_part: val}

Version 1 says `datasets` for `blend`. What is not a blend with weights (join, blend_epochized) is refused by name.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Split
from cosmos_data.readers.energon import is_energon
from cosmos_data.readers.found import printable

BLENDS = ("blend", "datasets")
MOST_LEVELS = 8
"""Of metadatasets that name metadatasets."""

UNSUPPORTED = ("join", "blend_epochized")
FORGOTTEN = ("subflavor", "subflavors", "shuffle_over_epochs_multiplier", "dataset_config", "split_config")
"""Keys that say how energon shall read a data set; they are named, and change nothing here."""


@dataclass(slots=True)
class BlendPart:
    """An energon folder in a blend."""

    folder: Path
    weight: float = 0.0
    """Its share (0 to 1) of the samples that are trained on."""

    splits: dict[str, Split] = field(default_factory=dict)
    """Of its own parts, those that are taken."""


def is_metadataset(path: Path) -> bool:
    """Tell whether a path looks like one."""
    return path.suffix in (".yaml", ".yml") and path.is_file()


def read_metadataset(path: Path) -> tuple[list[BlendPart], list[str]]:
    """Return (the folders of a blend in their order, keys that are not heeded). Raises DataError where it is no such
    file."""
    parts: dict[Path, BlendPart] = {}
    forgotten: list[str] = []
    for name, said in _splits(path).items():
        split: Split = "train" if name == "train" else "heldout"
        for folder, part, share in _leaves(path, said, str(name), 1.0, MOST_LEVELS, forgotten):
            one = parts.setdefault(folder, BlendPart(folder))
            if one.splits.setdefault(part, split) != split:
                raise DataError(f"{_where(path)}: part {part} of {folder} is in train and held out; keep one of them")
            if split == "train":
                one.weight += share
    if not any(part.weight for part in parts.values()):
        raise DataError(f"{_where(path)} names nothing to train on; give its split `train` a blend")
    return list(parts.values()), sorted(set(forgotten))


def _splits(path: Path) -> Mapping[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{_where(path)} is no YAML that can be read ({error})") from error
    splits = said.get("splits") if isinstance(said, dict) else None
    if not isinstance(splits, dict) or not splits:
        raise DataError(f"{_where(path)} has no splits, so it is no metadataset of energon; give a folder or a listing")
    return splits


def _leaves(
    path: Path, said: Any, split: str, share: float, levels: int, forgotten: list[str]
) -> Iterator[tuple[Path, str, float]]:
    """Yield (energon folder, its part, share of the split) of everything that one entry stands for."""
    if not isinstance(said, dict):
        raise DataError(f"{_where(path)}, {split}: {str(said)[:40]!r} is no entry; give it a path, or a blend")
    if unsupported := [key for key in UNSUPPORTED if key in said]:
        raise DataError(f"{_where(path)}, {split}: {unsupported[0]} is not read here; write a blend with weights")
    if levels == 0:
        raise DataError(f"{_where(path)}: more than {MOST_LEVELS} levels of metadatasets, one in the other")
    forgotten += [key for key in FORGOTTEN if key in said]
    for key in BLENDS:
        if key in said:
            yield from _blended(path, said[key], split, share, levels, forgotten)
            return
    yield from _at(path, said, split, share, levels, forgotten)


def _blended(
    path: Path, entries: Any, split: str, share: float, levels: int, forgotten: list[str]
) -> Iterator[tuple[Path, str, float]]:
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{_where(path)}, {split}: its blend is no list of data sets")
    weights = [entry.get("weight", 1) if isinstance(entry, dict) else 1 for entry in entries]
    for weight in weights:
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not (math.isfinite(weight) and weight > 0):
            raise DataError(f"{_where(path)}, {split}: weight {weight!r} is no number greater than 0")
    for entry, weight in zip(entries, weights, strict=True):
        yield from _leaves(path, entry, split, share * weight / sum(weights), levels - 1, forgotten)


def _at(
    path: Path, said: Mapping[str, Any], split: str, share: float, levels: int, forgotten: list[str]
) -> Iterator[tuple[Path, str, float]]:
    place = said.get("path")
    if not isinstance(place, str) or "://" in place:
        raise DataError(f"{_where(path)}, {split}: path {place!r} is no path of this machine")
    there = (path.parent / place).absolute()
    part = said.get("split_part", split)
    if is_metadataset(there):
        splits = _splits(there)
        if part not in splits:
            raise DataError(f"{_where(there)} has no split {part!r}, which {path.name} asks for")
        yield from _leaves(there, splits[part], str(part), share, levels - 1, forgotten)
    elif is_energon(there):
        yield Path(there.resolve()), str(part), share
    else:
        raise DataError(f"{_where(path)}, {split}: {place} is neither an energon folder nor a metadataset")


def _where(path: Path) -> str:
    return printable(str(path))
