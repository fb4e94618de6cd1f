"""Texts become a section's values by the types of its fields, or one sentence: key, value, rule, remedy.

    text           what was typed: 0777, on, 1e3 and 2026-11-29 too
    whole number   decimal digits without a leading zero; no other base, no underscores, no 1e3 and no 1.0
    number         the same, with a fraction and a power of ten where wanted: 1e-4 is 0.0001
    true or false  also yes, no, on, off: YAML 1.1's words; no numbers

The first unknown key or unfit value is named, in the order of the file, then all keys that are missing.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cosmos_train.config.errors import ConfigError, nearest
from cosmos_train.config.keys import all_keys, keys_in
from cosmos_train.config.ranges import check_number, hints_of, without_null

MISSING = "???"
"""How omegaconf writes a value that is still to be given."""
WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.?(nan|inf|infinity)", re.IGNORECASE)
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def typed(values: Mapping[str, Any], section: type, kind: str) -> Any:
    """The section, made of texts, lists and mappings, or of values that are of their type already.

    Args:
        kind: what has these keys, for the message: `a tokenizer run`.

    Raises:
        ConfigError: a key is unknown or missing, a value does not fit, or the sections do not fit each other.
    """
    converted = _converted(values, section, "", (section, kind))
    if missing := _missing(converted, section, ""):
        raise ConfigError(
            f"{', '.join(missing)} must be given: there is no default (`cosmos-train explain {missing[0]}`)"
        )
    return _made(converted, section)


def defaults(section: type) -> dict[str, Any]:
    """What keys are where nobody says, of the sections in it too."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        hint = hints_of(section)[field.name]
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            standing: Any = field.default_factory()
            found[field.name] = dataclasses.asdict(standing) if dataclasses.is_dataclass(hint) else standing
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found[field.name] = defaults(hint)
    return found


def _converted(values: Mapping[str, Any], section: type, prefix: str, whole: tuple[type, str]) -> dict[str, Any]:
    """Values by their types, of the sections in it too; without those that are still to be given."""
    hints, found = hints_of(section), {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in hints:
            raise ConfigError(_unknown(path, *whole))
        if value == MISSING:
            continue
        if not dataclasses.is_dataclass(hints[name]):
            found[name] = _convert(path, value, hints[name])
        elif isinstance(value, Mapping):
            found[name] = _converted(value, hints[name], f"{path}.", whole)
        else:
            rule = f"a mapping; `cosmos-train explain {path}` lists the keys of this section"
            raise ConfigError(f"{path}={shown(value)} is not {rule}")
    return found


def _missing(converted: Mapping[str, Any], section: type, prefix: str) -> list[str]:
    """Paths of what has no default and is not given."""
    found = []
    for field in dataclasses.fields(section):
        hint = hints_of(section)[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found += _missing(converted.get(field.name, {}), hint, f"{prefix}{field.name}.")
        elif field.name not in converted and _is_required(field):
            found.append(f"{prefix}{field.name}")
    return found


def _made(converted: Mapping[str, Any], section: type, standing: Any = None) -> Any:
    """standing: what the section is where nobody says anything; none where it must be given."""
    values = dict(converted)
    for field in dataclasses.fields(section):
        hint = hints_of(section)[field.name]
        if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
            continue
        own = getattr(standing, field.name) if standing is not None else _standing(field)
        if own is None or field.name in converted:
            values[field.name] = _made(converted.get(field.name, {}), hint, own)
    return section(**values) if standing is None else dataclasses.replace(standing, **values)


def _standing(field: dataclasses.Field) -> Any:
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown(path: str, section: type, kind: str) -> str:
    elsewhere = all_keys().get(path)
    if path.startswith("cluster") and elsewhere is not None:
        return f"{path} is no key of {kind}, but of a cluster file; name one with --cluster"
    if elsewhere is not None:
        return f"{path} is no key of {kind}, only of {', '.join(elsewhere.recipes)}; remove it, or correct `recipe`"
    return f"unknown key {path}{nearest(path, keys_in(section)) or '; `cosmos-train explain` lists the keys'}"


def _convert(path: str, value: Any, hint: Any) -> Any:
    """One value as its type, checked for its range."""
    of = without_null(hint)
    if value is None and of is not hint:
        return None
    plain = get_args(of)[0] if get_origin(of) is Annotated else of
    origin, arguments = get_origin(plain), get_args(plain)
    if (
        origin is tuple
        and isinstance(value, list | tuple)
        and (arguments[-1] is Ellipsis or len(value) == len(arguments))
    ):
        return tuple(_convert(f"{path}[{place}]", item, arguments[0]) for place, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _convert(f"{path}.{key}", item, arguments[1]) for key, item in value.items()}
    found = _scalar(value, plain)
    if found is None:
        raise ConfigError(f"{path}={shown(value)} is not {_in_words(hint)}{_remedy(value, plain)}")
    if plain in (int, float):
        check_number(path, found, of)
    return found


def _scalar(value: Any, plain: Any) -> Any:
    """One text as its type; None where it does not fit. An interpolation may have given a number or a truth."""
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if plain is str:
        return value
    if plain is bool:
        return TRUTHS.get(text.lower())
    if plain is int:
        return int(text) if WHOLE.fullmatch(text) else None
    if plain is float and NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if plain is float:
        return float(text) if NUMBER.fullmatch(text) else None
    return value if value in get_args(plain) else None


def _remedy(value: Any, plain: Any) -> str:
    """What to write instead, where that can be told; empty or `; write ...`."""
    if plain is str:
        return "; leave the key out, or put it in quotes" if value is None else "; put it in quotes"
    if plain not in (int, float) or not isinstance(value, str):
        return ""
    text = value.strip()
    if re.fullmatch(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?", text):
        return ", but of base 60 in YAML 1.1; write it as one number"
    if re.fullmatch(r"[-+]?0[0-7]+", text) and int(text) != int(text, 8):
        return f", but octal in YAML 1.1; write {int(text)}, or {int(text, 8)} if that is meant"
    if re.fullmatch(r"[-+]?0(o[0-7]+|x[0-9a-f]+|b[01]+)", text, re.IGNORECASE):
        return f", but one of another base; write {int(text, 0)}"
    clean = re.sub(r"^([-+]?)0+(?=[0-9])", r"\1", text.replace("_", ""))
    if not NUMBER.fullmatch(clean):
        return ""
    if plain is float:
        return f"; write {clean}"
    return f"; write {int(float(clean))}" if float(clean).is_integer() else ""


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _in_words(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(_in_words(argument) for argument in arguments)
    if origin is dict:
        return f"a mapping of names to {_plural(arguments[1])}"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_plural(arguments[0])}"
    return NOUNS[hint]


def _plural(hint: Any) -> str:
    return PLURALS[get_args(hint)[0] if get_origin(hint) is Annotated else hint]


def shown(value: Any) -> str:
    """A value as it may have been typed, on one line."""
    text = _as_typed(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_as_typed, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_as_typed(item)}' for key, item in value.items())}}}"
    return " ".join(value.split()) if isinstance(value, str) and value else json.dumps(value)
