"""What is wrong with the user's input, said in one sentence: key, value, rule, remedy."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A run that cannot be what its YAML, its overrides or its layout say. The command ends with exit code 2."""

    input_is_wrong = True


def nearest(name: str, known: Iterable[str]) -> str:
    """`; the nearest: a, b`, the end of a sentence about an unknown name. Empty where nothing is like it."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; the nearest: {', '.join(near)}" if near else ""
