"""The machine that a run is checked for and submitted to: what its nodes have, and how Slurm is asked for them.

A YAML file of its own, named by `--cluster`, so that a run's YAML is the same everywhere. No secrets belong in it: what
a job needs of them (WANDB_API_KEY) it takes from the environment of whoever submits.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.gpus import GPUS, Gpu, find_gpu
from cosmos_train.config.ranges import Count, CountOrZero, Positive, check_ranges

TIME_LIMIT = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)")
"""D-HH:MM:SS. Slurm's other forms are left out: it takes a number for minutes, and 12:30 for minutes and seconds."""
VARIABLE = re.compile(r"[A-Za-z_]\w*")
SECRET = re.compile(r"(.*_)?((API|ACCESS)?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?(_.*)?", re.IGNORECASE)
"""Names with such a word in them: WANDB_API_KEY, but neither NCCL_IB_PKEY nor TOKENIZERS_PARALLELISM."""
ASSIGNED = re.compile(r"\b([A-Za-z_]\w*)=(?=[\"']?[^\s\"'$`])")
"""Names in a line of a shell whose value is written out; one that starts with $ is taken from elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeaksConfig:
    """Dense TFLOP/s of one GPU with fp32 accumulation, for `mfu` in the metrics; none takes the data sheet's."""

    bf16: Positive | None = None
    """Of products in bf16."""
    fp8: Positive | None = None
    """Of products in 8-bit formats."""
    fp4: Positive | None = None
    """Of products in 4-bit formats."""

    def __post_init__(self) -> None:
        check_ranges(self, "cluster.peaks")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerConfig:
    """The container in which a job's processes run."""

    runtime: Literal["none", "pyxis", "apptainer"] = "none"
    """pyxis: options of srun, for enroot; apptainer: `apptainer exec`; none: the node itself."""
    image: str = ""
    """What the runtime takes: a .sqsh file or registry#image (pyxis), a .sif file (apptainer)."""
    mounts: tuple[str, ...] = ()
    """Folders that the container sees, as FROM:TO. The run's folder and the one that was submitted from must lie in
    them, under the name that they have outside."""

    def __post_init__(self) -> None:
        if (self.runtime == "none") != (not self.image):
            raise ConfigError(
                f"cluster.container.runtime={self.runtime} with image={self.image!r}: a runtime needs an image, "
                "and an image a runtime; set both, or neither"
            )

    def outside(self, path: Path) -> Path | None:
        """Where an absolute path of the container lies on the node; None where that can not be told: in the image."""
        if self.runtime == "none":
            return path
        for mount in self.mounts:
            source, target = (mount.split(":")[:2] * 2)[:2]
            if path.is_relative_to(target):
                return Path(source) / path.relative_to(target)
        return None


def _secret(where: str) -> ConfigError:
    """Without the value: messages are logged."""
    return ConfigError(
        f"cluster.{where} looks like a secret, and this file is copied into run folders; export it in the shell that "
        "submits: a job inherits that environment"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """A Slurm cluster, or the part of it that has nodes of one kind."""

    name: str
    """For messages and the log."""
    gpu: str | None = None
    """Name of the GPUs as `nvidia-smi -L` prints it; none: the nodes have none, and runs compute on their CPUs."""
    gpus_per_node: CountOrZero = 0
    """GPUs of each node, all of which a job asks for."""
    ranks_per_node: Count | None = None
    """Processes on each node; none is one for each GPU, or a single one on nodes without."""
    cpus_per_node: Count | None = None
    """CPUs that a job asks for on each node; none leaves it to the partition."""
    memory_per_node: str = "0"
    """Main memory that a job asks for on each node, as Slurm writes it, such as 200G; 0 is all of it."""
    capability: tuple[CountOrZero, CountOrZero] | None = None
    """CUDA compute capability, such as [9, 0]; none is what is known of the GPU's name."""
    peaks: PeaksConfig = field(default_factory=PeaksConfig)
    """What the GPUs reach at most."""
    account: str | None = None
    """Account that pays; none is the user's default."""
    partition: str | None = None
    """Partition; none is the cluster's default."""
    qos: str | None = None
    """Quality of service; none is the user's default."""
    time_limit: str = "1-00:00:00"
    """Time after which Slurm ends a job, as D-HH:MM:SS. A run that needs longer saves, queues again and goes on."""
    stop_before_limit_sec: Annotated[int, Ge(30)] = 300
    """Seconds before the time limit at which the run is told to save and stop: longer than a step and a save take, and
    15 more, in which a job that is not done by then is queued again."""
    launcher: Literal["torchrun", "ft_launcher"] = "torchrun"
    """What starts a node's ranks. ft_launcher, of nvidia-resiliency-ext on the nodes, starts them again after a failure
    within the job, up to max_retries times, before the job is queued again. Latent caches are made under torchrun."""
    max_retries: CountOrZero = 3
    """Times that a job is queued again after a crash. Preemption and the time limit do not count."""
    retry_backoff_sec: CountOrZero = 60
    """Seconds until the first retry; each further one waits twice as long."""
    sbatch_options: tuple[str, ...] = ()
    """Further options of sbatch, such as --constraint=ib or --exclusive."""
    setup: tuple[str, ...] = ()
    """Shell lines that a job runs first, such as `module load cuda/13.0`. Secrets are refused."""
    python: str | None = None
    """Python on the nodes or in the container; none is the one that submits."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of NCCL and the network, such as NCCL_IB_HCA. Secrets are refused."""
    health_check: str = ""
    """Shell command that each node must pass before the first step, such as a count of its GPUs."""
    health_check_sec: Count = 120
    """Seconds after which a health check that has not ended has failed, as of a GPU that does not answer."""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    """The container in which a job's processes run."""

    def __post_init__(self) -> None:
        check_ranges(self, "cluster")
        self._check_gpus()
        self._check_time_limit()
        for name in self.environment:
            if not VARIABLE.fullmatch(name):
                raise ConfigError(f"cluster.environment.{name} is no name of a variable; use letters, digits and _")
            if SECRET.fullmatch(name):
                raise _secret(f"environment.{name}")
        for key, values in (("sbatch_options", self.sbatch_options), ("setup", self.setup)):
            for value in values:
                if "\n" in value:
                    raise ConfigError(f"cluster.{key} has {value!r}, which is several lines; give each its own entry")
                for name in filter(SECRET.fullmatch, ASSIGNED.findall(value)):
                    raise _secret(f"{key} sets {name}, which")
        for option in self.sbatch_options:
            if not option.startswith("--"):
                raise ConfigError(f"cluster.sbatch_options has {option!r}; write options as --name or --name=value")

    def _check_gpus(self) -> None:
        if (self.gpu is None) != (self.gpus_per_node == 0):
            raise ConfigError(
                f"cluster.gpu={self.gpu} with cluster.gpus_per_node={self.gpus_per_node}: name the GPU and count it "
                "(1 or more), or leave out both on a cluster without GPUs"
            )
        if self.gpu is None:
            if self.capability is not None or self.peaks != PeaksConfig():
                raise ConfigError("cluster.capability and cluster.peaks describe a GPU; name it as cluster.gpu")
        elif self.capability is None and find_gpu(self.gpu) is None:
            raise ConfigError(
                f"cluster.gpu={self.gpu!r} is none of the known GPUs ({', '.join(GPUS)}); state its "
                "cluster.capability, such as [9, 0]"
            )
        if self.ranks_per_node is None:
            return
        if self.gpu is not None and self.ranks_per_node > self.gpus_per_node:
            raise ConfigError(
                f"cluster.ranks_per_node={self.ranks_per_node}, but cluster.gpus_per_node={self.gpus_per_node}, and "
                f"each rank needs a GPU; use {self.gpus_per_node} or less"
            )

    def _check_time_limit(self) -> None:
        if not TIME_LIMIT.fullmatch(self.time_limit):
            raise ConfigError(f"cluster.time_limit={self.time_limit} is not of the form D-HH:MM:SS, such as 0-12:00:00")
        if self.stop_before_limit_sec >= self.time_limit_sec:
            raise ConfigError(
                f"cluster.stop_before_limit_sec={self.stop_before_limit_sec} leaves nothing of cluster.time_limit="
                f"{self.time_limit}; use less than {self.time_limit_sec} s"
            )

    @property
    def time_limit_sec(self) -> int:
        """The time limit in seconds."""
        found = TIME_LIMIT.fullmatch(self.time_limit)
        assert found is not None, "checked in __post_init__"
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def num_ranks_per_node(self) -> int:
        """Processes on each node."""
        return self.ranks_per_node or self.gpus_per_node or 1

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """Of the GPUs, stated or known; None on a cluster without."""
        if self.capability is not None or self.gpu is None:
            return self.capability
        known = find_gpu(self.gpu)
        assert known is not None, "checked in __post_init__"
        return known.capability

    def described_gpu(self) -> Gpu | None:
        """The GPU with what this file states in place of the data sheet's; None where neither knows a bf16 peak."""
        known = find_gpu(self.gpu) if self.gpu is not None else None
        bf16 = self.peaks.bf16 or (known.bf16 if known else None)
        if bf16 is None or self.compute_capability is None:
            return None
        return Gpu(
            self.compute_capability,
            bf16,
            self.peaks.fp8 or (known.fp8 if known else None),
            self.peaks.fp4 or (known.fp4 if known else None),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFile:
    """The file's keys have names like a run's, so that `cluster.partition=debug` is an override of one."""

    cluster: ClusterConfig
    """The machine that a run is checked for and submitted to: a YAML file of its own, named by --cluster."""
