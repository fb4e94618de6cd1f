"""The code that a job runs says what it is a copy of, wherever the copy lies and however the checkout has changed."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cosmos_launch.jobs import code_version

ASK = "import code_version as c; print(c.describe_code()); print(c.uncommitted_changes(), end='')"


def asked(folder: Path) -> tuple[str, str]:
    """(description, changes) of the copy of the module in this folder, as a job would be told."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, check=True)
    described, _, changes = done.stdout.partition("\n")
    return described, changes


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the module in it, committed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(code_version.__file__, folder)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    return folder


def test_a_checkout_is_its_commit_and_what_differs_from_it(checkout: Path):
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert asked(checkout) == (f"{version('cosmos-train')} {commit}", "")
    with (checkout / "code_version.py").open("a") as file:
        file.write("# changed\n")
    described, changes = asked(checkout)
    assert described == f"{version('cosmos-train')} {commit}+changes" and "\n+# changed\n" in changes


def test_a_copy_inside_a_checkout_stays_what_it_was_when_the_checkout_goes_on(checkout: Path):
    with (checkout / "code_version.py").open("a") as file:
        file.write("# changed\n")
    before = asked(checkout)
    copy = checkout / "runs" / "code"
    copy.mkdir(parents=True)
    shutil.copy(checkout / "code_version.py", copy)
    note = f"from pathlib import Path; import code_version; code_version.note_code(Path({str(copy)!r}))"
    subprocess.run([sys.executable, "-c", note], env=os.environ | {"PYTHONPATH": str(checkout)}, check=True)
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "two")
    assert asked(copy) == before != asked(checkout)


def test_an_installed_package_is_no_part_of_the_repository_around_it(checkout: Path):
    installed = checkout / ".venv" / "lib"
    installed.mkdir(parents=True)
    shutil.copy(code_version.__file__, installed)
    assert asked(installed) == (version("cosmos-train"), "")


def test_the_environment_names_every_direct_dependency_and_no_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame-open-0123456789")
    lines = code_version.describe_environment().splitlines()
    for name in ("torch", "megatron-core", "omegaconf", "numpy", "wandb", "safetensors", "transformers"):
        assert f"{name} {version(name)}" in lines
    assert lines[0].startswith(f"cosmos-train {version('cosmos-train')}") and lines[1].startswith("python 3.")
    assert not any("sesame" in line for line in lines)
