"""What `make test` says at its end."""

import subprocess
import sys
from pathlib import Path

SKIPPING = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_one(number):
    pytest.importorskip("a_package_that_is_not_there", reason="no such package")

@pytest.mark.skipif(True, reason="no such disk")
def test_two(): ...

def test_three(): ...
"""


def test_what_was_skipped_is_listed_by_reason(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(SKIPPING)
    root = Path(__file__).parents[1]
    line = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-c", root / "pyproject.toml"]
    done = subprocess.run([*line, "-n", "1", tmp_path], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    listed = done.stdout.partition("skipped, by reason")[2]
    lines = [" ".join(line.split()) for line in listed.splitlines()]
    assert {"2 no such package", "1 no such disk"} <= set(lines)
    after = lines[lines.index("2 no such package") + 1 :]
    assert after[0].endswith("test_a.py::test_one[1]") and after[1].endswith("test_a.py::test_one[2]")
    assert "test_three" not in listed
