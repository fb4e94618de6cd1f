"""What a step says of itself in numbers: means over the global batch, and ratios of what not every batch has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

NumberT = TypeVar("NumberT", float, Tensor)


@dataclass(frozen=True, slots=True)
class Ratio(Generic[NumberT]):
    """A mean over what not every batch has, such as a range of noise levels: both of its parts are averaged."""

    sum: NumberT
    count: NumberT
    """The sum is over so much; 0 where the batch has none."""

    def __add__(self, other: "Ratio[NumberT]") -> "Ratio[NumberT]":
        """Return the ratio over both; of the kind of this one."""
        return type(self)(self.sum + other.sum, self.count + other.count)

    def value(self) -> float:
        """Return the number that is meant. Raises ZeroDivisionError where nothing was counted."""
        return float(self.sum) / float(self.count)


class Perplexity(Ratio[NumberT]):
    """exp of a mean likelihood, of which `sum` is the sum in nats."""

    __slots__ = ()

    def value(self) -> float:
        """Return exp of the mean. Raises ZeroDivisionError where nothing was counted."""
        return math.exp(float(self.sum) / float(self.count))


Metrics = Mapping[str, Tensor | Ratio[Tensor]]
"""By name, of one micro-batch: scalars on the device, and ratios of such."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Averages over the global batch, the same on every rank."""

    means: dict[str, float]
    ratios: dict[str, Ratio[float]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        """Return all numbers by name; a ratio's are its sum and its count."""
        found = dict(self.means)
        for name, ratio in self.ratios.items():
            found |= {f"{name} (sum)": ratio.sum, f"{name} (count)": ratio.count}
        return found


def scalars_of(metric: Tensor | Ratio[Tensor]) -> list[Tensor]:
    """Return the scalars of a metric: itself, or a ratio's sum and count."""
    return [metric.sum, metric.count] if isinstance(metric, Ratio) else [metric]


def put_together(kinds: Mapping[str, type], numbers: list[float]) -> StepMetrics:
    """Return averages of metrics of these kinds, from the averages of what `scalars_of` gives for each in turn."""
    found, left = StepMetrics({}), iter(numbers)
    for name, kind in kinds.items():
        if issubclass(kind, Ratio):
            found.ratios[name] = kind(next(left), next(left))
        else:
            found.means[name] = next(left)
    return found


def values_of(ratios: Mapping[str, Ratio[float]]) -> dict[str, float]:
    """Return the numbers that are meant, of those that counted anything."""
    return {name: ratio.value() for name, ratio in ratios.items() if ratio.count > 0}
