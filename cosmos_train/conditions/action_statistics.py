"""Actions are normalised with statistics of their embodiment, which are kept in a run and in its checkpoints.

A network learns what a number means under one normalisation. Under another the same command is another one, in silence:
so what was trained with goes where the weights go, and actions that do not fit it are refused.

N steps of an action, A dimensions.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action
from cosmos_train.conditions.actions import steps_per_frame
from cosmos_train.conditions.config import ActionConditionConfig, ActionNormalize, ConditionConfig
from cosmos_train.config.errors import ConfigError

ACTIONS = "action_statistics.json"
"""Name of the file in a run, in its checkpoints, and in what is made of them."""
FORMAT = "cosmos-train action statistics 1"
SAME = ("names", "units", "rate_hz", "frame_of_reference")
"""Fields of `Action` that all actions of one embodiment have alike."""
NEEDED: Mapping[ActionNormalize, tuple[str, ...]] = {
    "quantiles": ("q01", "q99"),
    "standard": ("mean", "std"),
    "scale": ("scale",),
    "none": (),
}
"""Normalisation -> fields of ActionStatistics that it reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionStatistics:
    """The actions of one embodiment in the training clips, and what they are normalised to."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float
    frame_of_reference: str
    normalize: ActionNormalize
    num_steps: int = 0
    """Steps that the next four are of: each has a number a dimension, or none where nothing was counted."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    q01: tuple[float, ...] = ()
    q99: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    """The factors of normalize=scale, else empty."""
    steps_per_frame: int | None = None
    """Steps from a frame to the next in the training windows; None where nobody counted them."""

    def __post_init__(self) -> None:
        if self.normalize not in NEEDED:
            raise ConfigError(f"normalize={self.normalize!r} is none of {', '.join(NEEDED)}; use one of them")
        for field in ("units", *NEEDED[self.normalize]):
            if len(getattr(self, field)) != len(self.names):
                raise ConfigError(
                    f"{field} has {len(getattr(self, field))} entries, and the actions {len(self.names)} dimensions "
                    f"({', '.join(self.names)}); give one for each"
                )

    @classmethod
    def of(cls, actions: Iterable[Action], config: ActionConditionConfig) -> "ActionStatistics":
        """Count the actions of one embodiment, of which there is at least one.

        Raises:
            DataError: they differ in names, units, rate or frame of reference.
            ConfigError: condition.action_scale is of another width.
        """
        first, *others = actions
        for other in others:
            require_alike(first, other)
        values_ND = np.concatenate([action.values_ND() for action in (first, *others)])
        if config.action_normalize == "scale" and len(config.action_scale) != len(first.names):
            raise ConfigError(
                f"condition.action_scale has {len(config.action_scale)} factors, and the actions of {_who(first)} have "
                f"{len(first.names)} dimensions ({', '.join(first.names)}); give one for each"
            )
        q01, q99 = np.quantile(values_ND, (0.01, 0.99), axis=0)
        return cls(
            **{field: getattr(first, field) for field in SAME},
            num_steps=len(values_ND),
            mean=tuple(values_ND.mean(axis=0).tolist()),
            std=tuple(values_ND.std(axis=0).tolist()),
            q01=tuple(q01.tolist()),
            q99=tuple(q99.tolist()),
            normalize=config.action_normalize,
            scale=config.action_scale,
        )

    def normalized(self, values_ND: np.ndarray) -> np.ndarray:
        """Return (values - offset) * factor, as `normalize` says; a dimension that never changes becomes 0."""
        offset_D, factor_D = self._offset_and_factor()
        return (values_ND - offset_D) * factor_D

    def original(self, normalized_ND: np.ndarray) -> np.ndarray:
        """Return the inverse of `normalized`."""
        offset_D, factor_D = self._offset_and_factor()
        return normalized_ND / factor_D + offset_D

    def _offset_and_factor(self) -> tuple[np.ndarray, np.ndarray]:
        width = len(self.names)
        match self.normalize:
            case "none":
                return np.zeros(width), np.ones(width)
            case "scale":
                return np.zeros(width), np.array(self.scale)
            case "standard":
                offset_D, spread_D = np.array(self.mean), np.array(self.std)
            case "quantiles":
                q01_D, q99_D = np.array(self.q01), np.array(self.q99)
                offset_D, spread_D = (q01_D + q99_D) / 2, (q99_D - q01_D) / 2
        changes_D = spread_D > 1e-9 * np.maximum(1, np.abs(offset_D))
        return offset_D, 1 / np.where(changes_D, spread_D, 1)


def require_alike(first: Action, other: Action) -> None:
    """Raise DataError where two actions of one embodiment are not numbers of the same meaning."""
    for field in SAME:
        one, another = getattr(first, field), getattr(other, field)
        if one != another:
            raise DataError(
                f"actions of {_who(first)} have {field} {_shown(one)} in one clip and {_shown(another)} in another; "
                "give them names of their own (embodiment) where the manifest is made, or make them alike"
            )


@dataclass(frozen=True, slots=True)
class Embodiments:
    """The statistics of all embodiments of a run, by name; a name may be empty where there is one."""

    statistics: Mapping[str, ActionStatistics]
    """In the order of their rows in the model's table."""

    @classmethod
    def of(
        cls, actions: Iterable[Action], config: ActionConditionConfig, known: "Embodiments | None" = None
    ) -> "Embodiments":
        """Count all actions of the training clips.

        Args:
            known: what the weights were trained with before. It keeps its rows, also those that no clip is of.

        Raises:
            ConfigError, DataError: they do not fit the configuration, or what is known.
        """
        before = {} if known is None else known.statistics
        by_name = dict[str, list[Action]]()
        for action in actions:
            by_name.setdefault(action.embodiment, []).append(action)
            if known is not None and action.embodiment in before:
                known.fit(action)
        new = sorted(by_name.keys() - before.keys())
        names = list(config.embodiments if isinstance(config, ConditionConfig) else ()) or [*before, *new]
        if names[: len(before)] != list(before) or set(names) != {*before, *new}:
            rows = f"the weights that are begun with have rows of {list(before)}, which stay; " if before else ""
            raise ConfigError(
                f"condition.embodiments={names}, and {rows}the training clips have actions of {sorted(by_name)}; list "
                f"{[*before, *new]}"
            )
        return cls({name: before.get(name) or ActionStatistics.of(by_name[name], config) for name in names})

    def at_frame_rates(self, windows: Iterable[tuple[Action, float]]) -> "Embodiments":
        """Return the same with the steps that each embodiment has from a frame to the next.

        Args:
            windows: actions of the training windows, each with its window's frames per second.

        Raises:
            ConfigError: windows of one embodiment have different numbers of steps, or another one than it was trained
                with before: the same numbers at the network's input would be actions of other moments.
        """
        found = dict(self.statistics)
        for action, fps in windows:
            one, steps = found[action.embodiment], steps_per_frame(action.rate_hz, fps)
            if one.steps_per_frame not in (None, steps):
                raise ConfigError(
                    f"actions of {_who(action)} have {steps} steps of {action.rate_hz:g} Hz for each frame of a window "
                    f"at {fps:g} fps, and {one.steps_per_frame} in other windows, or in the weights that are begun "
                    "with; use one rate of frames (data.target_fps), or give them names of their own (embodiment) "
                    "where the manifest is made"
                )
            found[action.embodiment] = replace(one, steps_per_frame=steps)
        return Embodiments(found)

    def row(self, name: str) -> int:
        """Return the number of an embodiment: its row in the model's table."""
        return list(self.statistics).index(name)

    def fit(self, action: Action) -> ActionStatistics:
        """Return what an action is normalised with.

        Raises:
            ConfigError: the model was trained on no such actions. All that differs is named.
        """
        trained = self.statistics.get(action.embodiment)
        if trained is None:
            raise ConfigError(
                f"actions are of embodiment {action.embodiment!r}, and the model was trained on "
                f"{', '.join(map(repr, self.statistics))}; give actions of one of them"
            )
        differing = [
            f"{field} {_shown(getattr(action, field))} instead of {_shown(getattr(trained, field))}"
            for field in SAME
            if getattr(action, field) != getattr(trained, field)
        ]
        if differing:
            raise ConfigError(
                f"actions are not those that the model was trained on: {'; '.join(differing)}; convert them, since its "
                "normalisation holds for those alone"
            )
        return trained

    def to_json(self) -> str:
        """Return the text that is kept; floats come back as they were."""
        of_each = {name: asdict(one) for name, one in self.statistics.items()}
        return json.dumps({"format": FORMAT, "embodiments": of_each}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Embodiments":
        """Read what `to_json` gives, or what somebody wrote who knows what a model was trained with.

        Args:
            where: names the text in errors.

        Raises:
            ConfigError: it is something else.
        """
        try:
            document = json.loads(text)
            if document.get("format") != FORMAT:
                raise ConfigError(f"it is of format {document.get('format')!r}, not {FORMAT!r}; use a newer version")
            return cls({name: _of_json(values) for name, values in document["embodiments"].items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{where} says of no actions what they are normalised with: {error}") from error


def _of_json(values: Mapping[str, Any]) -> ActionStatistics:
    fields: dict[str, Any] = {}
    for key, value in values.items():
        fields[key] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
    return ActionStatistics(**fields)


def _who(action: Action) -> str:
    return f"embodiment {action.embodiment!r}" if action.embodiment else "this data set"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value!r}"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] of text
