"""`cosmos-train submit`: check a run without torch, copy code and configuration into its folder, queue it with Slurm.

    RUN/slurm/001/        one submission: run.yaml, cluster.yaml, environment.txt, code/, train.sbatch, failures/
    RUN/slurm/*.log       what its jobs printed
    RUN/slurm/crashes.tsv what its jobs crashed of, and where: nodes that failed twice are left out

A job runs the copy of the code, so that a checkout can go on changing while a run waits in the queue.
"""

import dataclasses
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from omegaconf import OmegaConf

from cosmos_launch.worker import describe_code
from cosmos_train.config.cluster import ClusterConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import configs_dir, load_run, load_run_on_cluster, to_yaml
from cosmos_train.config.schema import RunConfig
from cosmos_train.config.validate import check_run
from cosmos_train.train.failures import UNKNOWN_HOST

PACKAGES = ("cosmos_train", "cosmos_launch", "cosmos_data", "cosmos_tok")
DRY_JOB = "NNN"
"""Stands for the number of a submission that is not made."""


class SubmitError(OSError):
    """Slurm refused a job, or is not there. Exit code 1."""


@dataclasses.dataclass(frozen=True, slots=True)
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


def submit(
    run_name: str,
    overrides: Sequence[str],
    *,
    cluster_name: str,
    nodes: str,
    after: Sequence[str],
    each: str | None,
    dry_run: bool,
) -> int:
    """Queue the run, or one for each value of `each`, and print the job's number. Returns the exit code.

    Raises:
        ConfigError: the run can not be trained on this cluster and so many nodes, or its folder is another run's.
        SubmitError: Slurm did not take the job.
    """
    asked = Nodes.parse(nodes)
    plans = [
        _plan(run_name, [*overrides, *more], cluster_name, asked, after, suffix=suffix)
        for more, suffix in _members(each)
    ]
    for run, cluster in plans:
        if dry_run:
            print(render(run, cluster, asked, after=after, submission=Path(run.run_dir) / "slurm" / DRY_JOB), end="")
        else:
            _submit(run, cluster, asked, after)
    return 0


def _members(each: str | None) -> list[tuple[list[str], str]]:
    """(overrides, suffix of the run's folder) of each job."""
    if each is None:
        return [([], "")]
    key, given, values = each.partition("=")
    if not given or not all(values.split(",")):
        raise ConfigError(f"--each {each} is not of the form section.key=value,value,...")
    return [([f"{key}={value}"], f"{key.rsplit('.', 1)[-1]}-{value}") for value in values.split(",")]


def _plan(
    run_name: str, overrides: Sequence[str], cluster_name: str, nodes: Nodes, after: Sequence[str], *, suffix: str
) -> tuple[RunConfig, ClusterConfig]:
    """Load and check for every number of nodes that Slurm may give."""
    run, cluster = load_run_on_cluster(run_name, cluster_name, overrides)
    if suffix:
        run = dataclasses.replace(run, run_dir=str(Path(run.run_dir) / suffix))
    for count in range(nodes.least, nodes.most + 1):
        try:
            check_run(run, count * cluster.num_ranks_per_node)
        except ConfigError as error:
            raise ConfigError(f"on {count} nodes of {cluster.num_ranks_per_node} ranks: {error}") from error
    if run.train.stop_at_step is not None:
        raise ConfigError(
            f"train.stop_at_step={run.train.stop_at_step} would send a job back to the queue for ever, to stop at that "
            "step again; leave it out, or set train.num_steps"
        )
    for job in after:
        if not re.fullmatch(r"\d+(_\d+)?", job):
            raise ConfigError(f"--after {job} is no number of a job")
    if re.search(r"[\\%\x00-\x1f\x7f]", str(Path(run.run_dir).resolve())):
        raise ConfigError(
            f"run_dir={run.run_dir!r} has a backslash, a percent sign or a control character, which Slurm does not "
            "take in the name of a log; rename it"
        )
    _check_is_same_run(run)
    return run, cluster


def _check_is_same_run(run: RunConfig) -> None:
    known = Path(run.run_dir) / "run.yaml"
    if known.is_file() and (recipe := load_run(str(known)).recipe) != run.recipe:
        raise ConfigError(
            f"run_dir={run.run_dir} is the folder of a {recipe} run, and this is a {run.recipe} run; use another folder"
        )


def _submit(run: RunConfig, cluster: ClusterConfig, nodes: Nodes, after: Sequence[str]) -> None:
    submission = _new_submission(Path(run.run_dir) / "slurm")
    snapshot(run, cluster, submission)
    script = submission / "train.sbatch"
    script.write_text(render(run, cluster, nodes, after=after, submission=submission), encoding="utf-8")
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise SubmitError(f"there is no sbatch here; on a login node of {cluster.name}: sbatch {script}") from error
    if done.returncode:
        raise SubmitError(f"sbatch refused {script}: {' '.join(done.stderr.split())}")
    job = done.stdout.strip().split(";")[0]
    (submission / "job.txt").write_text(f"{job}\n")
    print(f"job {job}: {run.run_dir} on {nodes} nodes of {cluster.name}; log: {run.run_dir}/slurm/{job}.log")


def _new_submission(folder: Path) -> Path:
    """The next free number, which is then taken."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    submission = folder / f"{max(numbers, default=0) + 1:03d}"
    submission.mkdir()
    return submission


def snapshot(run: RunConfig, cluster: ClusterConfig, submission: Path) -> None:
    """Code, configuration and versions, for the job and for whoever asks later what it ran."""
    for package in PACKAGES:
        source = Path(str(import_module(package).__file__)).parent
        shutil.copytree(source, submission / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    configs = submission / "code" / "cosmos_train" / "configs"
    if not configs.exists():  # in a checkout they lie beside the package
        shutil.copytree(configs_dir(), configs)
    (submission / "run.yaml").write_text(to_yaml(run))
    (submission / "cluster.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(cluster)))
    lines = (f"cosmos-train {describe_code()}", f"python {platform.python_version()}", f"host {platform.node()}")
    (submission / "environment.txt").write_text("\n".join(lines) + "\n")


def render(run: RunConfig, cluster: ClusterConfig, nodes: Nodes, *, after: Sequence[str], submission: Path) -> str:
    """The batch script of one run. Nothing of the run or the cluster is ever read as shell, but cluster.setup."""
    parts = {
        "#@directives@": [f"#SBATCH {option}" for option in _options(run, cluster, nodes, after)],
        "#@settings@": _settings(run, cluster, submission),
    }
    lines = template_path().read_text(encoding="utf-8").splitlines()
    return "".join(f"{part}\n" for line in lines for part in parts.get(line, [line]))


def template_path() -> Path:
    """Inside the installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "slurm" / "train.sbatch"
    return inside if inside.is_file() else here.parents[1] / "slurm" / "train.sbatch"


def _options(run: RunConfig, cluster: ClusterConfig, nodes: Nodes, after: Sequence[str]) -> list[str]:
    folder = Path(run.run_dir).resolve()
    excluded = bad_nodes(folder)
    given = [
        ("--job-name", folder.name),
        ("--nodes", str(nodes)),
        ("--gpus-per-node", str(cluster.gpus_per_node) if cluster.gpus_per_node else None),
        ("--cpus-per-task", None if cluster.cpus_per_node is None else str(cluster.cpus_per_node)),
        ("--mem", cluster.memory_per_node),
        ("--account", cluster.account),
        ("--partition", cluster.partition),
        ("--qos", cluster.qos),
        ("--time", cluster.time_limit),
        ("--signal", f"B:USR1@{cluster.stop_before_limit_sec}"),
        ("--output", f"{folder}/slurm/%j.log"),
        ("--open-mode", "append"),
        ("--exclude", ",".join(excluded) or None),
        ("--dependency", f"afterok:{':'.join(after)}" if after else None),
    ]
    named = [f"{option}={sbatch_quote(value)}" for option, value in given if value is not None]
    return [*named, "--requeue", *map(_quote_option, cluster.sbatch_options)]


def _settings(run: RunConfig, cluster: ClusterConfig, submission: Path) -> list[str]:
    container, start_dir = cluster.container, str(Path.cwd())
    mounts = ",".join(container.mounts)
    srun_options, inside = [], []
    if container.runtime == "pyxis":
        srun_options = [f"--container-image={container.image}", f"--container-workdir={start_dir}"]
        srun_options += [f"--container-mounts={mounts}"] if mounts else []
    elif container.runtime == "apptainer":
        inside = ["apptainer", "exec", "--nv", f"--pwd={start_dir}"]
        inside += [*([f"--bind={mounts}"] if mounts else []), container.image]
    values = {
        "RUN_DIR": str(Path(run.run_dir).resolve()),
        "SUBMISSION": str(submission.resolve()),
        "START_DIR": start_dir,
        "PYTHON": cluster.python or sys.executable,
        "RANKS_PER_NODE": str(cluster.num_ranks_per_node),
        "LAUNCHER": cluster.launcher,
        "MAX_RETRIES": str(cluster.max_retries),
        "RETRY_BACKOFF_SEC": str(cluster.retry_backoff_sec),
        "STOP_BEFORE_LIMIT_SEC": str(cluster.stop_before_limit_sec),
        "HEALTH_CHECK": cluster.health_check,
    }
    return [
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


def bad_nodes(run_dir: Path) -> list[str]:
    """Nodes on which the run failed twice or more, of what its jobs wrote down."""
    crashes = run_dir / "slurm" / "crashes.tsv"
    if not crashes.is_file():
        return []
    hosts = Counter(line.split("\t")[1] for line in crashes.read_text().splitlines())
    return sorted(host for host, count in hosts.items() if count > 1 and host != UNKNOWN_HOST)
