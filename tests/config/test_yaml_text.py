"""Files and overrides as texts: what YAML 1.1 would make numbers, truths and dates of stays what was typed."""

from typing import Any

import pytest
from support.scalars import AS_TYPED
from yaml import YAMLError

from cosmos_train.config.yaml_text import parse, parse_typed


@pytest.mark.parametrize("text", AS_TYPED)
def test_a_plain_scalar_is_its_text_everywhere(text: str):
    assert parse(f"key: {text}") == {"key": text}
    assert parse(f"key: [{text}, {text}]") == {"key": [text, text]}
    assert parse(f"{text}: {{{text}: 1}}") == {text: {text: "1"}}
    assert parse(f"key: '{text}'") == parse(f'key: "{text}"') == {"key": text}
    assert parse_typed(text) == parse_typed(f"'{text}'") == text


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_null_is_none_unless_it_is_in_quotes(text: str):
    assert parse(f"key: {text}") == {"key": None}
    assert parse_typed(text) is parse_typed(f" {text} ") is None
    assert parse(f"key: '{text}'") == {"key": text}
    assert parse_typed(f"'{text}'") == text


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "out/run #3": "out/run #3",
        "#3": "#3",
        " out/x ": "out/x",
        "out/new\nline": "out/new\nline",
        "!x": "!x",
        "it's": "it's",
        "a, b": "a, b",
        "'out/x #3'": "out/x #3",
        "' x '": " x ",
        "[010, on]": ["010", "on"],
        "{A: off, B: ~}": {"A": "off", "B": None},
        "key: text": {"key": "text"},
    }.items(),
)
def test_a_plain_override_is_all_that_was_typed(text: str, value: Any):
    assert parse_typed(text) == value


def test_merges_anchors_and_aliases_are_those_of_yaml():
    text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nboth: {<<: [*b, *o], z: 5}\nlist: &l [on]\nagain: *l\n"
    found = parse(text)
    assert found["both"] == {"x": "1", "y": "2", "z": "5"}, "the first mapping counts, the mapping's own keys most"
    assert found["again"] == found["list"] == ["on"]
    nested = "first: {inner: &i {<<: &a {x: 1}, x: 2}}\nsecond: {<<: *i}\n"
    assert parse(nested) == {"first": {"inner": {"x": "2"}}, "second": {"x": "2"}}


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "a: 1\na: 2": "found duplicate key a",
        "x: {on: 1, on: 2}": "found duplicate key on",
        "a: &x [1, *x]": "found an alias to what it lies in",
        "a: &x {b: *x}": "found an alias to what it lies in",
        "a: !!python/object/apply:os.system ['true']": "a tag without a meaning here",
        "a: !!timestamp 2026-11-29": "a tag without a meaning here",
        "a: !!binary aGk=": "a tag without a meaning here",
        "[1]: 2": "found a key that is no text",
        "a: {<<: 3}": "found << of something that is no mapping",
        "a: 1\n---\nb: 2": "but found another document",
        "a: *nowhere": "found undefined alias",
    }.items(),
)
def test_what_has_no_meaning_is_an_error(text: str, said: str):
    with pytest.raises(YAMLError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_a_written_tag_does_not_change_the_text():
    assert parse("{a: !!int 010, b: !!str 010, c: !!float 1e3, d: !!bool on, e: ! x}") == {
        "a": "010",
        "b": "010",
        "c": "1e3",
        "d": "on",
        "e": "x",
    }


@pytest.mark.parametrize("text", ["", "# nothing", "---\n", "~"])
def test_a_file_without_anything_is_none(text: str):
    assert parse(text) is None
