"""The one rule for numbers of the configuration: every float is finite, and every number lies in its key's range.

A field states its range in its type, as in `lr: Positive` and `betas: tuple[ShareBelowOne, ShareBelowOne]`. What a file
or an override says is checked when it is read (config.typed), a section that code makes checks itself (check_ranges).
Both come before any other check looks at the numbers.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt

from cosmos_train.config.errors import ConfigError

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]

MAX_INT = 2**63 - 1
"""Every whole number lies in what 64 bits hold."""


def check_ranges(section: Any, name: str) -> None:
    """Check the numbers of a section that name its range, and that every float is finite.

    Args:
        section: of the configuration, with its values; sections in it check themselves.
        name: what the section is called in an override, as in `train`; empty for the run itself.

    Raises:
        ConfigError: a number is out of its range.
    """
    prefix = f"{name}." if name else ""
    for field, hint in hints_of(type(section)).items():
        for path, value, of in _numbers(f"{prefix}{field}", getattr(section, field), hint):
            check_number(path, value, of)


def check_number(path: str, value: float, hint: Any) -> None:
    """Check one number for the range that its type states. Raises ConfigError."""
    bounds = _bounds(hint)
    must = [words for words, _ in bounds]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}={value} must be {' and '.join(['finite', *must])}")
    if abs(value) > MAX_INT and isinstance(value, int):
        raise ConfigError(f"{path}={value} must be {' and '.join([*must, f'at most {MAX_INT}'])}")
    if not all(holds(value) for _, holds in bounds):
        raise ConfigError(f"{path}={value} must be {' and '.join(must)}")


@cache
def hints_of(section: type) -> dict[str, Any]:
    """Field -> its type, with the range that it states."""
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def without_null(hint: Any) -> Any:
    """X of `X | None`, and X of X."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    [one] = [argument for argument in get_args(hint) if argument is not type(None)]
    return one


def _numbers(path: str, value: Any, hint: Any) -> Iterator[tuple[str, float, Any]]:
    """(path, number, its type) of a field: itself, or those in its list or mapping."""
    hint = without_null(hint)
    if isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from _numbers(f"{path}[{place}]", item, get_args(hint)[0])
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(f"{path}.{key}", item, get_args(hint)[1])
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value, hint


def _bounds(hint: Any) -> list[tuple[str, Any]]:
    """(in words, whether a number keeps it) of each bound of a type."""
    stated = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    bounds = []
    for one in stated:
        bounds += one if isinstance(one, Interval) else [one]
    return [_bound(bound) for bound in bounds]


def _bound(bound: Any) -> tuple[str, Any]:
    match bound:
        case Gt(gt=limit):
            return f"greater than {limit}", lambda value: value > limit
        case Ge(ge=limit):
            return f"at least {limit}", lambda value: value >= limit
        case Lt(lt=limit):
            return f"less than {limit}", lambda value: value < limit
        case Le(le=limit):
            return f"at most {limit}", lambda value: value <= limit
    raise TypeError(f"{bound!r} is no bound of a number")
