"""READMEs and docs/: links lead somewhere, commands parse, their keys are known, files and rooms are there."""

import re
import shlex
from pathlib import Path

import pytest

from cosmos_launch.cli.commands import make_parser
from cosmos_train.config.keys import all_keys

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE_READMES = (ROOT / "data/README.md", ROOT / "tokenizers/README.md")
PACKAGES = ("cosmos_train", "launch/cosmos_launch", "data/cosmos_data", "tokenizers/cosmos_tok")


def indented(page: Path) -> list[str]:
    """The lines of a page's indented blocks."""
    return [line.strip() for line in page.read_text().splitlines() if line.startswith("    ")]


def typed(page: Path) -> list[list[str]]:
    """The words of each `cosmos-train` command of a page: of its indented blocks, and in backquotes."""
    quoted = re.findall(r"`(cosmos-train\s[^`]*)`", page.read_text())
    lines = [
        shlex.split(line, comments=True) for line in [*indented(page), *quoted] if line.startswith("cosmos-train ")
    ]
    return [words[1:] for words in lines if "COMMAND" not in words]


@pytest.mark.parametrize("page", [*PAGES, *PACKAGE_READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
    lost = [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    assert not lost, f"{page.name} links what is not there: {lost}"


@pytest.mark.parametrize("page", [*PAGES, *PACKAGE_READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path):
    keys, parser = all_keys(), make_parser()
    for words in typed(page):
        arguments, overrides = parser.parse_known_args(words)
        overrides += [*getattr(arguments, "overrides", []), *getattr(arguments, "run_names", [])]
        for key in [word.partition("=")[0] for word in overrides if "=" in word or word.startswith("-")]:
            assert key in keys, f"{page.name}: {' '.join(words)}: {key} is no option and no key"
    for key in re.findall(r"`([a-z_]+\.[a-z_.]+)=", page.read_text()):
        assert key in keys, f"{page.name}: {key} is no key"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_are_there(page: Path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|^ +)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= set(targets)


def test_every_page_is_listed_in_readme():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_shows_every_room(package: str):
    shown = "\n".join(indented(ROOT / "README.md"))
    rooms = [folder.name for folder in (ROOT / package).iterdir() if (folder / "__init__.py").exists()]
    assert [room for room in rooms if not re.search(rf"\b{room}/", shown)] == []


SOURCE_ROOTS = (".", "cosmos_train", "data", "data/cosmos_data", "tokenizers", "launch")


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "docs/glossary.md"])
def test_files_that_are_named_are_there(name: str):
    """A file is named from its source root, or from the package that most of the page is about."""
    named = set(re.findall(r"\b[\w./]+/[\w.]+\.py\b", (ROOT / name).read_text()))
    assert len(named) > 5
    lost = [path for path in sorted(named) if not any((ROOT / root / path).is_file() for root in SOURCE_ROOTS)]
    assert not lost, f"{name} names what is not there: {lost}"


def test_complaints_have_the_tests_that_proofs_names():
    """Each row's files have a test with the complaint's number in its name."""
    rows = re.findall(r"^\| (\d+) (.*)$", (ROOT / "docs/proofs.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(1, 6), *range(12, 20)]
    for number, row in rows:
        patterns = re.findall(r"`(test_complaint[\w]*)_\*`", row)
        assert patterns and all(number in pattern.split("_") for pattern in patterns), f"complaint {number}"
        named = row.partition("; `test_wrong_input`")[0]
        for path in re.findall(r"`(tests/[\w/]+\.py)`", named):
            text = (ROOT / path).read_text()
            assert any(f"def {pattern}_" in text for pattern in patterns), f"{path} has no test of complaint {number}"


@pytest.mark.parametrize("readme", PACKAGE_READMES, ids=lambda readme: readme.parent.name)
def test_modules_that_a_package_readme_names_are_there(readme: Path):
    """A module is named by its file alone where it is the package's own, and by its path where it is another's."""
    own = {path.name for path in readme.parent.rglob("*.py")}
    named = set(re.findall(r"[\w/]+\.py\b", readme.read_text()))
    assert len(named) > 20
    assert [name for name in sorted(named) if name not in own and not (ROOT / name).is_file()] == []


def test_data_readme_has_a_row_for_each_room():
    rooms = {path.parent.name for path in (ROOT / "data/cosmos_data").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", PACKAGE_READMES[0].read_text(), re.MULTILINE)) == rooms


def test_tokenizers_readme_lists_each_module():
    readme = PACKAGE_READMES[1].read_text()
    modules = [path.name for path in (ROOT / "tokenizers/cosmos_tok").glob("*.py") if path.name != "__init__.py"]
    assert [name for name in modules if not re.search(rf"\b{name}", readme)] == []
