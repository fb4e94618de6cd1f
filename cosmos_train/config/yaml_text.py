"""YAML whose scalars are kept as they were typed: what 0777, on or 12:30:00 mean, the type of their key says.

YAML 1.1 would make numbers, truths and dates of them before anybody knows what they are for. Here a plain scalar is its
text, but `null`, `~` and nothing, which are None. Mappings have texts as keys, each once; merges (`<<`), anchors and
aliases are YAML's.
"""

import re
from typing import Any

import yaml
from yaml import MappingNode, MarkedYAMLError, Node, ScalarNode, SequenceNode

TAG = "tag:yaml.org,2002:"
NULL = re.compile(r"|~|null|Null|NULL")
TEXTS = {"!", *(f"{TAG}{name}" for name in ("str", "int", "float", "bool"))}
"""Tags whose scalars are taken as text, also where a file writes the tag itself."""


BaseLoader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _Loader(BaseLoader):  # pyright: ignore[reportGeneralTypeIssues]  one of two
    yaml_implicit_resolvers = {}  # noqa: RUF012  as PyYAML wants it: none but those that are added to it


_Loader.add_implicit_resolver(f"{TAG}null", re.compile(f"(?:{NULL.pattern})$"), ["", "~", "n", "N"])
_Loader.add_implicit_resolver(f"{TAG}merge", re.compile("<<$"), ["<"])


def parse(text: str) -> Any:
    """A document as mappings, lists, texts and None. Raises yaml.YAMLError."""
    node = yaml.compose(text, Loader=_Loader)
    return None if node is None else _value(node, ())


def parse_typed(text: str) -> Any:
    """The value of an override: what is neither in quotes nor a list or mapping is all of the text, `#` and all."""
    node = yaml.compose(text, Loader=_Loader)
    if node is not None and (not isinstance(node, ScalarNode) or node.style):
        return _value(node, ())
    return None if NULL.fullmatch(text.strip()) else text.strip()


def _value(node: Node, around: tuple[Node, ...]) -> Any:
    """around: what the node lies in; an alias may lead back there, and would not end."""
    if node in around:
        raise MarkedYAMLError(problem="found an alias to what it lies in", problem_mark=node.start_mark)
    inside = (*around, node)
    if isinstance(node, SequenceNode) and node.tag == f"{TAG}seq":
        return [_value(item, inside) for item in node.value]
    if isinstance(node, MappingNode) and node.tag == f"{TAG}map":
        return _mapping(node, inside)
    if isinstance(node, ScalarNode) and node.tag == f"{TAG}null":
        return None
    if isinstance(node, ScalarNode) and node.tag in TEXTS:
        return node.value
    raise MarkedYAMLError(problem=f"found {node.tag}, a tag without a meaning here,", problem_mark=node.start_mark)


def _mapping(node: MappingNode, inside: tuple[Node, ...]) -> dict[str, Any]:
    own: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise MarkedYAMLError(problem="found a key that is no text", problem_mark=key.start_mark)
        if key.tag == f"{TAG}merge":
            merged = _merged(value, inside) | merged
        elif key.value in own:
            raise MarkedYAMLError(problem=f"found duplicate key {key.value}", problem_mark=key.start_mark)
        else:
            own[key.value] = _value(value, inside)
    return merged | own


def _merged(node: Node, inside: tuple[Node, ...]) -> dict[str, Any]:
    """What `<<` brings: of several mappings the first one that has a key counts."""
    found = _value(node, inside)
    mappings = found if isinstance(found, list) else [found]
    if not all(isinstance(mapping, dict) for mapping in mappings):
        raise MarkedYAMLError(problem="found << of something that is no mapping", problem_mark=node.start_mark)
    merged: dict[str, Any] = {}
    for mapping in reversed(mappings):
        merged |= mapping
    return merged
