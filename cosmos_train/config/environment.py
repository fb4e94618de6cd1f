"""What the environment says of ranks and of W&B: the one module that reads these variables, for runs and for `doctor`.

Whoever starts the ranks of a run, torchrun or cosmos_launch.jobs.spawn, gives each RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT. Without them a process is all of its run. Variables that a shell or a pod has left over
contradict each other or the command line sooner or later; that is an error before anything waits for ranks that nobody
starts.

An empty variable counts as none.
"""

import os
from dataclasses import dataclass
from typing import Literal

from cosmos_train.config.errors import ConfigError

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
UNSET = f"unset {' '.join(RANK_VARIABLES)}"
"""Say what is to be typed where nobody meant to say anything."""

WandbMode = Literal["online", "offline", "disabled"]
WANDB_MODES: dict[str, WandbMode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""Values of WANDB_MODE and what they are for one process that logs: `shared` is about several, `run` and `dryrun` are
W&B's older names."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process of its run this one is."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among the ranks of this machine."""
    address: str = ""
    """The ranks meet there, as host:port; it is empty for a run of one process."""
    is_given: bool = False
    """Whether whoever started this process says so; if not, it is all of its run, or starts the ranks itself."""


def gloo_interfaces() -> list[str]:
    """Return the network interfaces that GLOO_SOCKET_IFNAME names; none where gloo is to choose."""
    return [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]


def own_ranks(num_wanted: int | None = None) -> Ranks:
    """What RANK, WORLD_SIZE and those with them say.

    Args:
        num_wanted: what --nproc asks for, where it does.

    Raises:
        ConfigError: a variable is no number or out of range, or they contradict each other or --nproc.
    """
    rank, world_size = _whole_number("RANK", 0), _whole_number("WORLD_SIZE", 1)
    if rank is None and world_size is None:
        return Ranks()
    if rank is None or world_size is None:
        there, lacking = ("RANK", "WORLD_SIZE") if world_size is None else ("WORLD_SIZE", "RANK")
        raise ConfigError(
            f"{there}={_text(there)} is set without {lacking}, and ranks are given both; start them with torchrun, or "
            f"{UNSET}"
        )
    if rank >= world_size:
        raise ConfigError(f"RANK={rank} is not below WORLD_SIZE={world_size}; ranks count from 0, or {UNSET}")
    if num_wanted not in (None, world_size):
        raise ConfigError(
            f"--nproc {num_wanted}, but RANK={rank} and WORLD_SIZE={world_size} make this process rank {rank} of "
            f"{world_size}; {UNSET} to start {num_wanted} here, or leave out --nproc where torchrun starts the ranks"
        )
    if world_size == 1:
        return Ranks(is_given=True)
    if lacking := [name for name in RANK_VARIABLES if not _text(name)]:
        raise ConfigError(
            f"RANK={rank} and WORLD_SIZE={world_size} are set without {', '.join(lacking)}, and ranks are given all of "
            f"them; start them with torchrun, or {UNSET}"
        )
    port = _whole_number("MASTER_PORT", 0)
    assert port is not None
    if port > 65535:
        raise ConfigError(f"MASTER_PORT={port} is no port; use a free one from 1024 to 65535, or {UNSET}")
    return Ranks(rank, world_size, _whole_number("LOCAL_RANK", 0) or 0, f"{_text('MASTER_ADDR')}:{port}", is_given=True)


def rank_for_messages() -> int:
    """Tell this process's number as far as that can be told, also where own_ranks refuses what is set."""
    text = _text("RANK")
    return int(text) if text.isascii() and text.isdigit() else 0


def check_not_copied() -> None:
    """Raises ConfigError where srun has started this command several times: each would be a whole run.

    A shell inside of such a step looks alike; whoever works in one says --nproc.
    """
    copies = _text("SLURM_STEP_NUM_TASKS")
    if copies.isdigit() and int(copies) > 1:
        raise ConfigError(
            f"srun started {copies} tasks (SLURM_STEP_NUM_TASKS={copies}), and each would train a run of one process; "
            "use `cosmos-train submit`, or one task a node with torchrun in it; in a shell of one of the tasks say how "
            "many ranks to start here, as in --nproc 1"
        )


def wandb_mode() -> WandbMode | None:
    """What WANDB_MODE asks for; None where it is not set. Raises ConfigError for what is no mode of W&B's."""
    text = _text("WANDB_MODE")
    if text and text not in WANDB_MODES:
        raise ConfigError(f"WANDB_MODE={text} is no mode of W&B's; use one of {', '.join(WANDB_MODES)}, or unset it")
    return WANDB_MODES[text] if text else None


def wandb_variable(name: str) -> str | None:
    """WANDB_name, such as PROJECT; None where it is not set."""
    return _text(f"WANDB_{name}") or None


def drop_empty_wandb_variables() -> None:
    """W&B takes an empty variable for a value, and refuses most of them."""
    for name in [name for name, text in os.environ.items() if name.startswith("WANDB_") and not text.strip()]:
        del os.environ[name]


def _text(name: str) -> str:
    return os.environ.get(name, "").strip()


def _whole_number(name: str, least: int) -> int | None:
    text = _text(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ConfigError(f"{name}={text} is not a whole number of {least} or more, as ranks are given; {UNSET}")
    return int(text)
