"""Why a mapping is no run of its kind, in one sentence: the first unknown key, unfit value or missing key.

omegaconf merges and checks; its messages speak of its own types and leave out the key where a tuple is wrong. So what
did not merge is looked through here once more, key by key, in the order of the YAML.
"""

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cosmos_train.config.errors import nearest
from cosmos_train.config.keys import Key, all_keys, as_yaml

MISSING = "???"
"""How omegaconf writes a value that is still to be given."""
NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def mismatch(values: Mapping[Any, Any], keys: Mapping[str, Key], kind: str) -> str | None:
    """The sentence, without the name of the file; None where every key is known, given and of its type.

    Args:
        keys: those that there are, by path.
        kind: what has them, for the message: `a tokenizer run`.
    """
    given = dict(_leaves(values, keys))
    for path, value in given.items():
        if path not in keys:
            return _unknown(path, kind, keys)
        if not _fits(keys[path], value):
            return f"{path}={_shown(value)} is not {_rule(keys[path])}"
    required = [path for path, key in keys.items() if key.default == "required" and key.type_name != "section"]
    missing = [path for path in required if given.get(path, MISSING) == MISSING]
    if missing:
        return f"{', '.join(missing)} must be given: there is no default (`cosmos-train explain {missing[0]}`)"
    return None


def _leaves(values: Mapping[Any, Any], keys: Mapping[str, Key], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that is no section's mapping."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if path in keys and keys[path].type_name == "section" and isinstance(value, Mapping):
            yield from _leaves(value, keys, f"{path}.")
        else:
            yield path, value


def _unknown(path: str, kind: str, keys: Mapping[str, Key]) -> str:
    elsewhere = all_keys().get(path)
    if path.startswith("cluster") and elsewhere is not None:
        return f"{path} is no key of {kind}, but of a cluster file; name one with --cluster"
    if elsewhere is not None:
        return f"{path} is no key of {kind}, only of {', '.join(elsewhere.recipes)}; remove it, or correct `recipe`"
    return f"unknown key {path}{nearest(path, keys) or '; `cosmos-train explain` lists the keys'}"


def _fits(key: Key, value: Any) -> bool:
    try:
        OmegaConf.merge(OmegaConf.structured(key.owner), {key.path.rsplit(".", 1)[-1]: value})
    except OmegaConfBaseException:
        return False
    return True


def _rule(key: Key) -> str:
    if key.type_name == "section":
        return f"a mapping; `cosmos-train explain {key.path}` lists the keys of this section"
    return _in_words(get_type_hints(key.owner)[key.path.rsplit(".", 1)[-1]])


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(_in_words(argument) for argument in arguments)
    if origin is dict:
        return "a mapping of names to texts"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{PLURALS[arguments[0]]}"
    return NOUNS[hint]


def _shown(value: Any) -> str:
    text = as_yaml(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
