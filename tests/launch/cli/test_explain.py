"""`cosmos-train explain` tells of every key what it means; of an unknown one, which are nearest."""

import pytest

from cosmos_launch.cli.main import main
from cosmos_train.config.keys import all_keys
from cosmos_train.config.schema import RUNS


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch):
    """A terminal on which no meaning is broken."""
    monkeypatch.setenv("COLUMNS", "2000")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    return out


def test_a_key(capsys: pytest.CaptureFixture[str]):
    assert told(capsys, "optim.betas").splitlines() == [
        "optim.betas",
        "  Decay rates of Adam's two moments.",
        "",
        "  type     tuple[float, float]",
        "  default  [0.9, 0.99]",
        f"  recipes  {', '.join(RUNS)}",
        "  read by  cosmos_train.train.loop",
    ]


def test_every_key(capsys: pytest.CaptureFixture[str]):
    for path, key in all_keys().items():
        said = told(capsys, path)
        assert path in said and " ".join(key.meaning.split())[:60] in " ".join(said.split())


def test_a_section_lists_its_keys(capsys: pytest.CaptureFixture[str]):
    said = told(capsys, "parallel")
    assert said.startswith("parallel: How ranks divide the work.\n")
    listed = [line.split()[0] for line in said.splitlines()[2:]]
    assert listed == [path for path, key in all_keys().items() if key.section == "parallel"]


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]):
    assert "[0.9, 0.99]" in told(capsys, "optim")


def test_nothing_lists_the_sections(capsys: pytest.CaptureFixture[str]):
    said = told(capsys)
    for path in all_keys():
        assert (f"\n{path} " in f"\n{said}") == ("." not in path)


def test_an_unknown_key_names_its_neighbours(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "train.num_stepz"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "cosmos-train: there is no configuration key 'train.num_stepz'; the nearest: train.num_steps, "
    )
    assert err.count("\n") == 1
