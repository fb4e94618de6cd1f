"""What a benchmark says last: one line, and an exit code, by which a script knows whether its goals are met."""

from collections.abc import Sequence


def tell_goals(missed: Sequence[str]) -> int:
    """Print which goals were missed, or that all are met. Return the exit code: 1 where one was missed."""
    print("missed: " + "; ".join(missed) if missed else "all goals are met", flush=True)
    return 1 if missed else 0
