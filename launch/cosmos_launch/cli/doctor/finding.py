"""What the doctor says of one thing, and how it is found out of what is installed without importing it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

# Distribution -> supported versions, word for word as in pyproject.toml (a test compares them).
SUPPORTED = {
    "python": ">=3.11,<3.13",
    "torch": ">=2.11,<2.14",
    "megatron-core": "==0.16.1",
    "psutil": ">=5.9,<8",
    "omegaconf": ">=2.4,<2.5",
    "av": ">=15,<19",
    "wandb": ">=0.31,<1",
    "mujoco": ">=3.3,<4",
}

Status = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    name: str
    """What was looked at."""
    status: Status
    """ok, missing (the detail says what that costs) or wrong (the detail says why)."""
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


Probe = Callable[[], Finding | list[Finding]]


def isolated(name: str, probe: Probe) -> list[Finding]:
    """Run a probe; what it raises becomes a finding."""
    try:
        found = probe()
    except ModuleNotFoundError as error:
        found = Finding(name, "missing", str(error), f"install {error.name or 'it'}")
    except Exception as error:  # whatever a broken installation raises is itself the finding
        found = Finding(name, "wrong", f"{type(error).__name__}: {error}", "repair or reinstall it")
    return found if isinstance(found, list) else [found]


def of_package(distribution: str, module: str, cost: str, name: str = "") -> Finding:
    """Judge a package by its metadata alone: megatron-core takes seconds to import."""
    name, version, wanted = name or distribution, version_of(distribution), SUPPORTED[distribution]
    if version is None or find_spec(module) is None:
        return Finding(name, "missing", cost, pip_install(distribution + wanted))
    if not is_within(version, wanted):
        return Finding(name, "wrong", f"{version} is not {wanted}", pip_install(distribution + wanted))
    return Finding(name, "ok", version)


def version_of(distribution: str) -> str | None:
    """Read an installed distribution's version; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def is_within(version: str, wanted: str) -> bool:
    """Tell whether a version keeps every clause of a specifier; `+cpu` and `rc1` are not looked at."""

    def release(text: str) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", text)[0])))

    have = release(version)
    compare = {">=": have.__ge__, "<": have.__lt__, "==": have.__eq__}
    return all(compare[sign](release(bound)) for sign, bound in re.findall(r"(>=|<|==)([\d.]+)", wanted))


def pip_install(requirement: str) -> str:
    """Write the command that installs a requirement."""
    return f'pip install "{requirement}"'
