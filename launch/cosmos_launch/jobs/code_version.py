"""Which code runs and what it stands on: of a checkout git says it, of a submission's copy what was noted in it.

SUBMISSION/code/cosmos_launch/jobs/version.txt    what describe_code() said where the copy was made
SUBMISSION/code/cosmos_launch/jobs/code.diff      what was not committed then
"""

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

VERSION, DIFF = "version.txt", "code.diff"
NAME = re.compile(r"[\w.-]+")
HERE = Path(__file__).resolve().parent


def describe_code() -> str:
    """Release, and the commit where the code is a git checkout (`+changes` where it differs from it)."""
    if (HERE / VERSION).is_file():
        return (HERE / VERSION).read_text().strip()
    release = version("cosmos-train")
    if not _is_checkout():
        return release
    return f"{release} {_git('rev-parse', '--short=12', 'HEAD').strip()}{'+changes' * bool(_git('status', '-s'))}"


def uncommitted_changes() -> str:
    """As a patch; empty where there are none, or where nothing is known of a commit."""
    if (HERE / VERSION).is_file():
        return (HERE / DIFF).read_text()
    return _git("diff", "HEAD") if _is_checkout() else ""


def note_code(copy: Path) -> None:
    """Write down in a copy of this room, cosmos_launch/jobs, what it is a copy of."""
    (copy / DIFF).write_text(uncommitted_changes())
    (copy / VERSION).write_text(f"{describe_code()}\n")


def describe_environment() -> str:
    """Lines: this code, Python, the machine, and the version of each direct dependency that is installed."""
    lines = [f"cosmos-train {describe_code()}", f"python {platform.python_version()}"]
    lines += [f"platform {platform.platform()}", f"host {platform.node()}"]
    dependencies = filter(None, map(NAME.match, requires("cosmos-train") or ()))
    for name in sorted({found[0] for found in dependencies}):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # of an extra that is not installed
            continue
    return "\n".join(lines) + "\n"


def _is_checkout() -> bool:
    """Whether git knows this file: an installed package may lie in the checkout of something else."""
    return bool(_git("ls-files", "--", str(Path(__file__).resolve())))


def _git(*arguments: str) -> str:
    """Output of git about this code; empty where it is no checkout or there is no git."""
    try:
        result = subprocess.run(["git", "-C", HERE, *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""
