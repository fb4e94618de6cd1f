"""Every configuration key with its type, default and meaning, read from the sources of the configuration leaves.

The meaning is the string under the field, which Python throws away; so it is read from the source with `ast`. Readers
are the modules in which the key is looked up on something that is named as its section, or named `config`.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from cosmos_data.simulate.config import WorldsConfig
from cosmos_train.config.cluster import ClusterFile
from cosmos_train.config.schema import RUNS

PACKAGES = ("cosmos_train", "cosmos_launch", "cosmos_data", "cosmos_tok")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one or more kinds of run."""

    path: str
    """Dotted, as in an override."""
    owner: type
    """The dataclass that has the field."""
    type_name: str
    default: str
    """As YAML would have it; `required` where there is none."""
    recipes: tuple[str, ...]

    @property
    def meaning(self) -> str:
        """The string under the field, as one line. Its source is read for whoever asks, and not to check a run."""
        return _meanings(self.owner)[self.path.rsplit(".", 1)[-1]]

    @property
    def section(self) -> str:
        """The name before the last dot; `run` for keys of the run itself."""
        return self.path.rsplit(".", 1)[0] if "." in self.path else "run"


def all_keys() -> dict[str, Key]:
    """Path -> key, over all kinds of run, the cluster file and simulated worlds, sections before what is in them."""
    found: dict[str, Key] = {}
    for recipe in RUNS:
        for path, key in keys_of(recipe).items():
            known = found.get(path)
            found[path] = dataclasses.replace(key, recipes=(*known.recipes, recipe)) if known else key
    return found | keys_of_cluster() | keys_of_worlds()


def keys_of(recipe: str) -> dict[str, Key]:
    """Path -> key, of one kind of run."""
    return {key.path: key for key in _keys_of(RUNS[recipe], "", recipe)}


def keys_of_cluster() -> dict[str, Key]:
    """Path -> key, of a cluster file: each begins with `cluster`, as in an override."""
    return {key.path: key for key in _keys_of(ClusterFile, "", "none: it is the cluster file's")}


def keys_of_worlds() -> dict[str, Key]:
    """Path -> key, of simulated worlds: each begins with its world's name, as in an override."""
    return {key.path: key for key in _keys_of(WorldsConfig, "", "none: it is a simulated world's")}


def keys_in(section: type) -> list[str]:
    """Paths of all keys of a section, and of those in it."""
    return [key.path for key in _keys_of(section, "", "")]


def readers(key: Key) -> list[str]:
    """Modules that look the key up, in alphabetical order."""
    field = key.path.rsplit(".", 1)[-1]
    section = key.section.rsplit(".", 1)[-1]
    names = {section, "config", "run"} if section != "run" else {"run"}
    owners = "|".join(owner.__name__ for owner in key.owner.__mro__[:-1])  # a section may have its fields of another
    section_is_there = re.compile(rf"\b({owners})\b|\.{section}\b|\b{section}_config\b")
    found = {
        module
        for module, source, lookups in _sources()
        if any((name, field) in lookups for name in names) and (key.section == "run" or section_is_there.search(source))
    }
    return sorted(found | {key.owner.__module__} if _derives(key.owner, field) else found)


def as_yaml(value: Any) -> str:
    """A value as YAML has it, on one line."""
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _derives(owner: type, field: str) -> bool:
    """Whether the section works something out from the field that others ask for, such as tokenizer.latent_frames()."""
    body = ast.parse(inspect.getsource(owner)).body[0]
    assert isinstance(body, ast.ClassDef)
    methods = [m for m in body.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    return any(("self", field) in _lookups(method) for method in methods)


def _lookups(tree: ast.AST) -> set[tuple[str, str]]:
    """(a, b) for every a.b and every x.a.b in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
            found.add((name, node.attr))
    return found


def _keys_of(section: type, prefix: str, recipe: str) -> Iterator[Key]:
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        hint = hints[field.name]
        path = f"{prefix}{field.name}"
        yield Key(path, section, _type_name(hint), _default(field), (recipe,))
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _keys_of(hint, f"{path}.", recipe)


def _type_name(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return "section"
    if get_origin(hint) in (Union, UnionType):
        return " | ".join("None" if of is NoneType else _type_name(of) for of in get_args(hint))
    if isinstance(hint, type) and not hasattr(hint, "__args__"):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return as_yaml(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else "its own defaults"


@cache
def _meanings(section: type) -> dict[str, str]:
    """Field -> the string under it as one line, inherited fields included."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        body = ast.parse(inspect.getsource(owner)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


@cache
def _sources() -> list[tuple[str, str, set[tuple[str, str]]]]:
    """(module, source, what it looks up) of the project's modules, without the leaves that define configuration."""
    found = []
    for package in PACKAGES:
        root = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if path.name in ("config.py", "schema.py", "keys.py"):
                continue
            parts = path.relative_to(root.parent).with_suffix("").parts
            source = path.read_text(encoding="utf-8")
            found.append((".".join(parts), source, _lookups(ast.parse(source))))
    return found
