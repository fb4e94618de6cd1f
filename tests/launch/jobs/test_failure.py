"""What a person reads of an exception, and the exit code: the whole table."""

import json

import pytest

from cosmos_data.errors import ClipError, DataError, StallError
from cosmos_launch.jobs import failure
from cosmos_launch.jobs.failure import report_failure
from cosmos_tok.store import TokenizerError
from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.init import RendezvousError
from cosmos_train.train.checkpoint.folder import CheckpointError

USER, FAILED = 2, 1
KNOWN = {
    ConfigError("train.num_steps=0 must be at least 1"): USER,
    DataError("there is no manifest"): USER,
    ClipError("clip a cannot be decoded", position=3): USER,
    TokenizerError("no tokenizer"): USER,
    FileNotFoundError(2, "No such file", "x.mp4"): USER,
    PermissionError(13, "Permission denied", "/runs"): USER,
    StallError("decoding hangs"): FAILED,
    RendezvousError("rank 0 of 2 did not meet the others"): FAILED,
    CheckpointError("of another architecture"): FAILED,
    FloatingPointError("loss not finite at step 3"): FAILED,
    OSError(28, "No space left on device"): FAILED,
}
DEFECTS = [
    *(RuntimeError("shape mismatch"), KeyError("x"), AssertionError("never"), TypeError("f() missing 1 argument")),
    ValueError("max() arg is an empty sequence"),
    UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    json.JSONDecodeError("Expecting value", "{", 1),
]


def raised(error: Exception) -> Exception:
    """With a traceback, as a command's errors have."""
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(("error", "code"), KNOWN.items(), ids=[type(error).__name__ for error in KNOWN])
def test_known_errors_are_one_sentence(error: Exception, code: int, capsys: pytest.CaptureFixture[str]):
    assert report_failure(raised(error)) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"cosmos-train: {error}\n")


@pytest.mark.parametrize("error", DEFECTS, ids=[type(error).__name__ for error in DEFECTS])
def test_defects_come_with_their_traceback(error: Exception, capsys: pytest.CaptureFixture[str]):
    assert report_failure(raised(error)) == FAILED
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):") and "in raised" in err
    assert err.endswith(f"\ncosmos-train: {type(error).__name__}: {error}\n")


def test_debug_shows_the_traceback_of_a_known_error(capsys: pytest.CaptureFixture[str]):
    assert report_failure(raised(ConfigError("wrong")), debug=True) == USER
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith("\ncosmos-train: wrong\n")


def test_other_ranks_let_rank_0_speak_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    slept = []
    monkeypatch.setattr(failure.time, "sleep", slept.append)
    assert report_failure(raised(ConfigError("wrong")), rank=0) == USER
    assert report_failure(raised(ConfigError("wrong")), rank=3) == USER
    assert slept == [2.0]
    assert capsys.readouterr().err == "cosmos-train: wrong\ncosmos-train: rank 3: wrong\n"


@pytest.mark.parametrize("error", [SystemExit(75), KeyboardInterrupt()])
def test_leaving_is_no_failure(error: BaseException):
    with pytest.raises(type(error)):
        report_failure(error)


def test_names_are_those_of_classes_that_there_are():
    """They stand as text, because importing the classes would import torch."""
    names = {type(error).__name__ for error in KNOWN}
    assert names >= failure.NAMES_OF_FAILURES
