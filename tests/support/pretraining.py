"""What every shipped run of a released size has: a head that says how it is run, and what the plan says of it."""

import re
from pathlib import Path

from cosmos_train.config.load import configs_dir, load_run
from cosmos_train.config.schema import RunConfig
from cosmos_train.footprint import Plan

HEADINGS = ("Purpose", "Command", "Hardware", "Memory", "Throughput", "Our choice")


def shipped(pattern: str, folder: str = "pretrain") -> list[Path]:
    """The YAML files whose names are like this."""
    return sorted((configs_dir() / "run" / folder).glob(pattern))


def read(path: Path) -> tuple[str, RunConfig, int]:
    """(its head, the run, ranks of its command)"""
    text, name = path.read_text(), f"run/{path.parent.name}/{path.stem}"
    command = re.search(rf"# Command +cosmos-train train {name} --dry-run --world-size (\d+)\n", text)
    assert command is not None, "the command names the file"
    return text[: text.index("recipe:")], load_run(name), int(command[1])


def check_head(head: str) -> None:
    """It has all headings, and claims no measured throughput."""
    for heading in HEADINGS:
        assert re.search(rf"^# {heading} ", head, re.MULTILINE), heading
    assert "not measured" in head


def check_memory(head: str, plan: Plan, world_size: int) -> None:
    """It is the plan's, all ranks holding equally much."""
    [kind] = plan.kinds
    assert f"# Memory      {kind.memory.total / 2**30:.1f} GiB a GPU" in head and f"on {world_size} " in head
