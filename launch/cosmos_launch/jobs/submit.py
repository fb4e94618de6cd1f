"""`cosmos-train submit`: check runs without torch, copy code and configuration to their folder, queue them with Slurm.

    RUN/slurm/001/          one submission: run.yaml, cluster.yaml, environment.txt, code/, train.sbatch, failures/
    RUN/slurm/*.log         what its jobs printed
    RUN/slurm/jobs.tsv      a line for each job that was queued to train the run: its number, its submission
    RUN/slurm/crashes.tsv   what its jobs crashed of; suspects.txt: nodes that may be why, left out after two times

Several runs are one job array, with one submission in the folder that theirs lie in: run-0.yaml, run-1.yaml, ...
A job that makes a latent cache has a submission of its own, in the folder of the run that is trained on the cache.
A job runs the copy of the code, so that a checkout can go on changing while a run waits in the queue.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise, product
from pathlib import Path

from omegaconf import OmegaConf

from cosmos_launch.jobs.batch_script import Batch, Nodes, Stage, cache_of, render
from cosmos_launch.jobs.code_version import describe_environment, note_code
from cosmos_launch.jobs.inputs import check_inputs
from cosmos_launch.jobs.run_folder import check_is_same_run, check_is_writable
from cosmos_launch.jobs.slurm import jobs_in_queue, queue
from cosmos_train.config.cluster import ClusterConfig, ContainerConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import configs_dir, load_run_on_cluster, to_yaml
from cosmos_train.config.schema import RunConfig, WorldRun
from cosmos_train.config.validate import check_run

PACKAGES = ("cosmos_train", "cosmos_launch", "cosmos_data", "cosmos_tok")
DRY_JOB = "NNN"
"""Stands for the number of a submission, or of a job, that is not made."""


def submit(
    run_names: Sequence[str],
    overrides: Sequence[str],
    *,
    cluster_name: str,
    nodes: str,
    after: Sequence[str],
    each: str | None,
    chain: bool,
    stages: Sequence[Stage],
    dry_run: bool,
) -> int:
    """Queue a run; or several, or one for each value of `each`, as an array; or several as a chain. Print the jobs.

    Returns the exit code. Nothing is written or queued before all of it is checked.

    Args:
        stages: what is queued of them, in this order: to make their latent caches, to train them, or both.

    Raises:
        ConfigError: a run can not be trained on this cluster and so many nodes, lacks what it reads, or its folder is
            another run's, can not be written or is queued already.
        SubmitError: Slurm did not take a job.
    """
    # argparse takes all words before the first option for the first list of positionals.
    overrides = [word for word in run_names if "=" in word] + [*overrides]
    run_names = [word for word in run_names if "=" not in word]
    for job in after:
        if not re.fullmatch(r"\d+(_\d+)?", job):
            raise ConfigError(f"--after {job} is no number of a job")
    batches = _plan(run_names, overrides, cluster_name, Nodes.parse(nodes), each=each, chain=chain, stages=stages)
    if not dry_run:
        _check_place(batches, after)
    before = tuple(after)
    for batch in batches:
        if dry_run:
            print(render(batch, after=before, submission=batch.home / "slurm" / DRY_JOB), end="")
        before = (DRY_JOB if dry_run else _submit(batch, before),)
    return 0


def _plan(
    run_names: Sequence[str],
    overrides: Sequence[str],
    cluster_name: str,
    nodes: Nodes,
    *,
    each: str | None,
    chain: bool,
    stages: Sequence[Stage] = ("train",),
) -> list[Batch]:
    """The jobs in their order: one for all caches, where they are to be made; one, or one for each stage of a chain."""
    if each is not None and len(run_names) > 1:
        raise ConfigError(f"--each {each} makes variants of one run, and {len(run_names)} are named; name one")
    if chain and len(run_names) < 2:
        raise ConfigError("--chain queues stages one after the other; name two runs or more, in their order")
    members = _variants(each) if each is not None else [([], "")]
    loaded = [
        _load(name, [*overrides, *more], cluster_name, nodes, suffix=suffix, stages=stages)
        for name, (more, suffix) in product(run_names, members)
    ]
    runs, cluster = [run for run, _ in loaded], loaded[0][1]
    folders = [Path(run.run_dir).resolve() for run in runs]
    if len({*folders}) < len(folders):
        raise ConfigError(f"run_dir={runs[-1].run_dir} is that of several of the runs; each needs a folder of its own")
    if not chain and Path(os.path.commonpath(folders)) == Path("/"):
        raise ConfigError(
            f"run_dir={runs[0].run_dir} and run_dir={runs[-1].run_dir} have no folder in common for the submission and "
            "the logs of their array; submit the runs one by one"
        )
    batches = []
    if "tokenize" in stages:
        batches.append(Batch(_one_for_each_cache(runs, cluster.container), cluster, nodes, "tokenize"))
    if "train" not in stages:
        return batches
    if chain:
        runs[1:] = [_next_stage(stage, before) for before, stage in pairwise(runs)]
        return batches + [Batch((run,), cluster, nodes) for run in runs]
    return [*batches, Batch(tuple(runs), cluster, nodes)]


def _one_for_each_cache(runs: Sequence[RunConfig], container: ContainerConfig) -> tuple[RunConfig, ...]:
    """The first run of each finished cache, and all that fill one: of a folder that they share each has its own
    windows."""
    firsts: dict[tuple[Path, str], RunConfig] = {}
    for run in runs:
        if not isinstance(run, WorldRun):
            raise ConfigError(
                f"--tokenize: {run.run_dir} is a {run.recipe} run, which has no latent cache; leave it out"
            )
        filled_by = run.run_dir if run.latents.fill else ""
        firsts.setdefault((cache_of(run, container), filled_by), run)
    return tuple(firsts.values())


def _variants(each: str) -> list[tuple[list[str], str]]:
    """(overrides, suffix of the run's folder) of each task."""
    key, given, values = each.partition("=")
    if not given or not all(values.split(",")):
        raise ConfigError(f"--each {each} is not of the form section.key=value,value,...")
    if key.startswith("cluster."):
        raise ConfigError(f"--each {each}: the tasks of an array have one cluster; submit them one by one")
    name = key.rsplit(".", 1)[-1]
    return [([f"{key}={value}"], f"{name}-{re.sub(r'[^A-Za-z0-9_.+-]', '_', value)}") for value in values.split(",")]


def _load(
    run_name: str,
    overrides: Sequence[str],
    cluster_name: str,
    nodes: Nodes,
    *,
    suffix: str,
    stages: Sequence[Stage],
) -> tuple[RunConfig, ClusterConfig]:
    """Load and check; what is to be trained, for every number of nodes that Slurm may give."""
    run, cluster = load_run_on_cluster(run_name, cluster_name, overrides)
    if suffix:
        run = dataclasses.replace(run, run_dir=str(Path(run.run_dir) / suffix))
    for count in range(nodes.least, nodes.most + 1) if "train" in stages else ():
        try:
            check_run(run, count * cluster.num_ranks_per_node)
        except ConfigError as error:
            raise ConfigError(f"on {count} nodes of {cluster.num_ranks_per_node} ranks: {error}") from error
    if run.train.stop_at_step is not None:
        raise ConfigError(
            f"train.stop_at_step={run.train.stop_at_step} would send a job back to the queue for ever, to stop at that "
            "step again; leave it out, or set train.num_steps"
        )
    if re.search(r"[\\%:\x00-\x1f\x7f]", str(Path(run.run_dir).resolve())):
        raise ConfigError(
            f"run_dir={run.run_dir!r} has a colon, a backslash, a percent sign or a control character, which names of "
            "logs and PYTHONPATH can not have; rename it"
        )
    check_is_same_run(run)
    return run, cluster


def _next_stage(run: RunConfig, before: RunConfig) -> RunConfig:
    """The run as it starts from what the one before it will have trained."""
    if run.recipe != before.recipe:
        raise ConfigError(
            f"--chain: {run.run_dir} is a {run.recipe} run, and can not start from the weights of {before.run_dir}, a "
            f"{before.recipe} run; submit it with --after and the job of that"
        )
    named = run.checkpoint.init_from
    if named is not None and not Path(named).resolve().is_relative_to(Path(before.run_dir).resolve()):
        raise ConfigError(
            f"--chain: {run.run_dir} comes after {before.run_dir}, but has checkpoint.init_from={named}; name the "
            "stages in their order, or set checkpoint.init_from=null"
        )
    if named is not None:
        return run
    return dataclasses.replace(run, checkpoint=dataclasses.replace(run.checkpoint, init_from=before.run_dir))


def _check_place(batches: Sequence[Batch], after: Sequence[str]) -> None:
    """What depends on this machine, and is no matter of --dry-run: what runs read, where they write, the queue."""
    start_dir, earlier = Path.cwd(), []
    for batch in batches:
        container = batch.cluster.container
        check_is_writable(batch.home)
        for run, run_dir in zip(batch.runs, batch.run_dirs, strict=True):
            for name, folder in (("run_dir", run_dir), ("the folder that is submitted from", start_dir)):
                if container.mounts and container.outside(folder) != folder:
                    raise ConfigError(
                        f"cluster.container.mounts={list(container.mounts)} do not show the container {name}, {folder}"
                        f"; add {folder}:{folder}, or work in a folder that they show under its own name"
                    )
            check_is_writable(run_dir)
            if not after:  # what is not there yet may be what is waited for
                check_inputs(run, container, stage=batch.stage, made_before=earlier)
            if batch.stage == "train":
                _check_not_queued(run_dir, after)
        earlier += batch.caches or batch.run_dirs


def _check_not_queued(run_dir: Path, after: Sequence[str]) -> None:
    jobs_file = run_dir / "slurm" / "jobs.tsv"
    known = [line.split("\t")[0] for line in jobs_file.read_text().splitlines()] if jobs_file.is_file() else []
    for job, state in jobs_in_queue(known).items():
        if job not in after and job.partition("_")[0] not in after:
            raise ConfigError(
                f"run_dir={run_dir} is trained by job {job}, which is {state.lower()}, and two trainings would remove "
                f"each other's checkpoints; wait for it, end it with scancel {job}, or go on when it is done with "
                f"--after {job}"
            )


def _submit(batch: Batch, after: Sequence[str]) -> str:
    """Write the submission and hand it to Slurm. Returns the job's number."""
    submission = _new_submission(batch.home / "slurm")
    snapshot(batch, submission)
    script = submission / "train.sbatch"
    script.write_text(render(batch, after=after, submission=submission), encoding="utf-8")
    job = queue(script, batch.cluster.name)
    numbers = [f"{job}_{task}" if task else job for task, _ in batch.tasks]
    for number, made in zip(numbers, batch.caches or batch.run_dirs, strict=True):
        log = batch.home / "slurm" / f"{number}.log"
        print(f"job {number}: {made} on {batch.nodes} nodes of {batch.cluster.name}; log: {log}")
    if batch.stage == "train":
        for number, run_dir in zip(numbers, batch.run_dirs, strict=True):
            (run_dir / "slurm").mkdir(parents=True, exist_ok=True)
            with (run_dir / "slurm" / "jobs.tsv").open("a") as file:
                file.write(f"{number}\t{submission}\n")
    if batch.bad_nodes():
        print(f"without {', '.join(batch.bad_nodes())}: named twice in slurm/suspects.txt, which may be removed")
    return job


def _new_submission(folder: Path) -> Path:
    """The next free number, which is then taken."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    submission = folder / f"{max(numbers, default=0) + 1:03d}"
    submission.mkdir()
    return submission


def snapshot(batch: Batch, submission: Path) -> None:
    """Code, configuration and versions, for the job and for whoever asks later what it ran."""
    for package in PACKAGES:
        source = Path(str(import_module(package).__file__)).parent
        shutil.copytree(source, submission / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    note_code(submission / "code" / "cosmos_launch" / "jobs")
    configs = submission / "code" / "cosmos_train" / "configs"
    if not configs.exists():  # in a checkout they lie beside the package
        shutil.copytree(configs_dir(), configs)
    for task, run in batch.tasks:
        (submission / (f"run-{task}.yaml" if task else "run.yaml")).write_text(to_yaml(run))
    (submission / "cluster.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(batch.cluster)))
    (submission / "environment.txt").write_text(describe_environment())
