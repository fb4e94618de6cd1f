"""The batch script of a submission: slurm/train.sbatch with #SBATCH lines and settings for what it queues.

Nothing of a run or a cluster is ever read as shell, but cluster.setup and cluster.health_check.
"""

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from cosmos_train.config.cluster import ClusterConfig, ContainerConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import RunConfig, WorldRun

EXCLUDE = "--exclude="
Stage = Literal["tokenize", "train"]
"""What a job is for: to make the latent caches of runs, or to train them."""
RANKS_OF: dict[Stage, str] = {"tokenize": "cosmos_launch.jobs.encode_rank", "train": "cosmos_launch.jobs.worker"}
"""The module that each rank of such a job runs."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """How many nodes a job asks for: from `least` to `most`."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "Nodes":
        """`4` or `2-4`."""
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        nodes = cls(int(found[1]), int(found[2] or found[1])) if found else cls(0, 0)
        if not 1 <= nodes.least <= nodes.most:
            raise ConfigError(f"--nodes {text} is neither a number of nodes nor a range such as 2-4")
        return nodes

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call of sbatch queues: a run, or several side by side as the tasks of an array."""

    runs: tuple[RunConfig, ...]
    cluster: ClusterConfig
    nodes: Nodes
    stage: Stage = "train"

    @property
    def run_dirs(self) -> list[Path]:
        """Of each run, absolute."""
        return [Path(run.run_dir).resolve() for run in self.runs]

    @property
    def caches(self) -> list[Path]:
        """Folders of the latent caches that the job makes, one for each run (cache_of); of a job that trains, none."""
        if self.stage == "train":
            return []
        return [cache_of(run, self.cluster.container) for run in self.runs if isinstance(run, WorldRun)]

    @property
    def home(self) -> Path:
        """Where submissions and logs are: the run's folder, or what the folders of several lie in."""
        return Path(os.path.commonpath(self.run_dirs))

    @property
    def is_array(self) -> bool:
        """Whether there are several."""
        return len(self.runs) > 1

    @property
    def tasks(self) -> list[tuple[str, RunConfig]]:
        """(what follows a job's number and a file's name, run) of each."""
        return [(str(task), run) for task, run in enumerate(self.runs)] if self.is_array else [("", self.runs[0])]

    def bad_nodes(self) -> list[str]:
        """Nodes that runs crashed on twice or more, by what their jobs wrote down (suspects.txt)."""
        suspects = [run_dir / "slurm" / "suspects.txt" for run_dir in self.run_dirs]
        hosts = Counter[str]()
        for path in suspects:
            if path.is_file():
                hosts.update(path.read_text().split())
        return sorted(host for host, count in hosts.items() if count > 1)


def cache_of(run: WorldRun, container: ContainerConfig) -> Path:
    """The folder of a run's latent cache as the node knows it, not its container: absolute, without links."""
    folder = Path(run.latents.folder).absolute()
    return (container.outside(folder) or folder).resolve()


def render(batch: Batch, *, after: Sequence[str], submission: Path) -> str:
    """The batch script. `after`: numbers of the jobs that must be done before it starts."""
    parts = {
        "#@directives@": [f"#SBATCH {option}" for option in _options(batch, after)],
        "#@settings@": _settings(batch, submission),
    }
    lines = template_path().read_text(encoding="utf-8").splitlines()
    filled = chain.from_iterable(parts.get(line, [line]) for line in lines)
    return "".join(f"{line}\n" for line in filled)


def template_path() -> Path:
    """Inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "slurm" / "train.sbatch"
    return inside if inside.is_file() else package.parents[1] / "slurm" / "train.sbatch"


def _options(batch: Batch, after: Sequence[str]) -> list[str]:
    cluster, own = batch.cluster, batch.cluster.sbatch_options
    excluded = [option.removeprefix(EXCLUDE) for option in own if option.startswith(EXCLUDE)] + batch.bad_nodes()
    given = [
        ("--job-name", batch.home.name + ("-tokenize" if batch.stage == "tokenize" else "")),
        ("--array", f"0-{len(batch.runs) - 1}" if batch.is_array else None),
        ("--nodes", str(batch.nodes)),
        ("--gpus-per-node", str(cluster.gpus_per_node) if cluster.gpus_per_node else None),
        ("--cpus-per-task", None if cluster.cpus_per_node is None else str(cluster.cpus_per_node)),
        ("--mem", cluster.memory_per_node),
        ("--account", cluster.account),
        ("--partition", cluster.partition),
        ("--qos", cluster.qos),
        ("--time", cluster.time_limit),
        ("--signal", f"B:USR1@{cluster.stop_before_limit_sec}"),
        ("--output", f"{batch.home}/slurm/{'%A_%a' if batch.is_array else '%j'}.log"),
        ("--open-mode", "append"),
        ("--exclude", ",".join(excluded) or None),
        ("--dependency", f"afterok:{':'.join(after)}" if after else None),
        ("--kill-on-invalid-dep", "yes" if after else None),
    ]
    named = [f"{option}={sbatch_quote(value)}" for option, value in given if value is not None]
    return [*named, "--requeue", *(_quote_option(option) for option in own if not option.startswith(EXCLUDE))]


def _settings(batch: Batch, submission: Path) -> list[str]:
    cluster, container, start_dir = batch.cluster, batch.cluster.container, str(Path.cwd())
    mounts = ",".join(container.mounts)
    srun_options, inside = [], []
    if container.runtime == "pyxis":
        srun_options = [f"--container-image={container.image}", f"--container-workdir={start_dir}"]
        srun_options += [f"--container-mounts={mounts}"] if mounts else []
    elif container.runtime == "apptainer":
        inside = ["apptainer", "exec", "--nv", f"--pwd={start_dir}"]
        inside += [*([f"--bind={mounts}"] if mounts else []), container.image]
    values = {
        "SUBMISSION": str(submission.resolve()),
        "START_DIR": start_dir,
        "PYTHON": cluster.python or sys.executable,
        "MIN_NODES": str(batch.nodes.least),
        "RANKS_PER_NODE": str(cluster.num_ranks_per_node),
        "RANK_MODULE": RANKS_OF[batch.stage],
        "LAUNCHER": cluster.launcher if batch.stage == "train" else "torchrun",
        "MAX_RETRIES": str(cluster.max_retries),
        "RETRY_BACKOFF_SEC": str(cluster.retry_backoff_sec),
        "HEALTH_CHECK": cluster.health_check,
        "HEALTH_CHECK_SEC": str(cluster.health_check_sec),
    }
    return [
        f"RUN_DIRS=({shlex.join(map(str, batch.run_dirs))})",
        f"CACHES=({shlex.join(map(str, batch.caches))})",
        *(f"{name}={shlex.quote(value)}" for name, value in values.items()),
        f"SRUN_OPTIONS=({shlex.join(srun_options)})",
        f"CONTAINER=({shlex.join(inside)})",
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        *cluster.setup,
    ]


def sbatch_quote(value: str) -> str:
    """A value as sbatch reads it in an #SBATCH line: it knows double quotes and backslashes, and expands nothing."""
    if re.fullmatch(r"[\w./:@%+,=-]+", value, re.ASCII):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quote_option(option: str) -> str:
    name, given, value = option.partition("=")
    return f"{name}={sbatch_quote(value)}" if given else sbatch_quote(option)
