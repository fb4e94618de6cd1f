"""What can be wrong with a run on a given number of ranks, found before torch is imported or a job is queued."""

import dataclasses

from cosmos_train.config.cluster import ClusterConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.gpus import product_format
from cosmos_train.config.schema import RunConfig, WorldARRun, WorldDiTRun
from cosmos_train.generate.config import require_halves
from cosmos_train.parallel.config import check_layout, check_precision


def check_run(run: RunConfig, world_size: int) -> None:
    """Degrees and batches must divide. Raises ConfigError with the values that do."""
    if world_size < 1:
        raise ConfigError(f"--nproc {world_size} must be at least 1")
    check_layout(run.parallel, world_size)
    data_parallel = world_size // run.parallel.ranks_per_replica
    at_once = run.train.micro_batch_size * data_parallel
    if run.train.global_batch_size % at_once:
        raise ConfigError(
            f"train.global_batch_size={run.train.global_batch_size} is not a multiple of "
            f"train.micro_batch_size={run.train.micro_batch_size} * {data_parallel} data-parallel ranks = {at_once}; "
            f"use a multiple of {at_once}, or another parallel.tp, pp or cp"
        )
    num_micro_batches = run.train.global_batch_size // at_once
    if run.parallel.pp_chunks > 1 and num_micro_batches % run.parallel.pp:
        raise ConfigError(
            f"parallel.pp_chunks={run.parallel.pp_chunks} sends micro-batches around in groups of parallel.pp="
            f"{run.parallel.pp}, but a step has {num_micro_batches} of them (train.global_batch_size / {at_once}); "
            f"use a global batch that is a multiple of {at_once * run.parallel.pp}, or pp_chunks=1"
        )


def fit_to_cluster(run: RunConfig, cluster: ClusterConfig) -> RunConfig:
    """The run with the peak of the cluster's GPU to measure itself by, where its YAML states none.

    Raises:
        ConfigError: the GPUs can not compute what the run asks for.
    """
    recipe, capability = run.parallel.precision.recipe, cluster.compute_capability
    if capability is not None:
        check_precision(run.parallel.precision, capability, f"{cluster.gpu} of cluster {cluster.name}")
    elif recipe != "none":
        raise ConfigError(
            f"parallel.precision.recipe={recipe} needs a GPU, and cluster {cluster.name} has none; "
            "use recipe none, or another cluster"
        )
    elif run.parallel.layers == "te":
        raise ConfigError(
            f"parallel.layers=te needs a GPU, and cluster {cluster.name} has none; use auto, or another cluster"
        )
    gpu = cluster.described_gpu()
    if gpu is None or run.train.peak_tflops is not None or run.train.precision == "fp32":
        return run
    peak = gpu.peak(product_format(recipe))
    return dataclasses.replace(run, train=dataclasses.replace(run.train, peak_tflops=peak))


def check_sampling(run: WorldDiTRun, world_size: int, *, num_videos: int, num_frames: int, has_input: bool) -> None:
    """A layout must have work for every rank, guidance something to be guided away from. Raises ConfigError."""
    sample, parallel = run.sample, run.parallel
    check_layout(parallel, world_size)
    replicas = world_size // parallel.ranks_per_replica
    if sample.cfg_parallel:
        require_halves(world_size, tp=parallel.tp, pp=parallel.pp, cp=parallel.cp)
    at_once = replicas // 2 if sample.cfg_parallel else replicas
    _check_work(num_videos, at_once, "parallel.tp, pp or cp, or sample.cfg_parallel=true")
    if sample.is_guided and not sample.negative_prompt and run.objective.text_dropout == 0:
        raise ConfigError(
            f"sample.guidance={sample.guidance} leads away from sample.negative_prompt, which is empty, and this model "
            "was trained with objective.text_dropout=0, so it has never seen a video without text; give a negative "
            f"prompt, or switch guidance off with sample.guidance={0 if sample.guidance_from == 'cond' else 1}"
        )
    if sample.guide_frames and run.objective.condition_dropout == 0:
        raise ConfigError(
            "sample.guide_frames=true leads away from conditioning frames of zeros, and this model was trained with "
            "objective.condition_dropout=0, so it has never seen any; use sample.guide_frames=false"
        )
    if sample.guide_condition and run.condition.dropout == 0:
        raise ConfigError(
            "sample.guide_condition=true leads away from a camera path and actions of zeros, and this model was "
            "trained with condition.dropout=0, so it has never seen any; use sample.guide_condition=false"
        )
    takes_frames = run.model.condition_mask and sample.num_condition_frames > 0
    if has_input and not takes_frames:
        raise ConfigError(
            f"--input gives a Video2World model its first frames, but model.condition_mask={run.model.condition_mask} "
            f"and sample.num_condition_frames={sample.num_condition_frames}; leave --input out, or use a model with a "
            "condition mask and 1 or more frames"
        )
    if num_frames > run.data.num_frames and not takes_frames:
        raise ConfigError(
            f"--num-frames {num_frames} is longer than the {run.data.num_frames} frames of a window, and windows go on "
            f"from each other only in a Video2World model (model.condition_mask={run.model.condition_mask}) with "
            f"sample.num_condition_frames={sample.num_condition_frames} of 1 or more; ask for at most "
            f"{run.data.num_frames} frames, or use such a model"
        )
    forwards = (num_videos // at_once) * (2 if sample.is_guided and not sample.cfg_parallel else 1)
    if parallel.pp_chunks > 1 and (forwards % parallel.pp or num_videos % at_once):
        raise ConfigError(
            f"parallel.pp_chunks={parallel.pp_chunks} sends videos around in groups of parallel.pp={parallel.pp}, "
            f"but a step has {forwards} of them (videos of a rank, twice with guidance); use pp_chunks=1, which reads "
            "the same checkpoint"
        )


def check_code_sampling(
    run: WorldARRun, world_size: int, *, num_videos: int, num_frames: int, has_input: bool, has_prompt: bool
) -> None:
    """A layout that can go code by code, and something to begin with. Raises ConfigError."""
    sample, parallel = run.sample, run.parallel
    check_layout(parallel, world_size)
    for key, value, off in (
        ("cp", parallel.cp, 1),
        ("sequence_parallel", parallel.sequence_parallel, False),
        ("pp_chunks", parallel.pp_chunks, 1),
    ):
        if value != off:
            raise ConfigError(
                f"parallel.{key}={value} divides many tokens at once, and a video of codes is made one code at a time; "
                f"use parallel.{key}={str(off).lower()}, which reads the same checkpoint, with parallel.tp and pp"
            )
    _check_work(num_videos, world_size // parallel.ranks_per_replica, "parallel.tp or pp")
    if has_prompt and not run.model.reads_text:
        raise ConfigError(
            f"--prompt is for a model that reads text, and this one has model.cross_attention="
            f"{str(run.model.cross_attention).lower()} and model.action_width={run.model.action_width}; leave it out"
        )
    if has_input and not sample.num_condition_frames:
        raise ConfigError(
            "--input gives the first frames, but sample.num_condition_frames=0; leave --input out, or use 1 or more"
        )
    if not has_input and (run.objective.condition_frames or not run.model.begin_token):
        raise ConfigError(
            "this model goes on from given frames: it was trained with objective.condition_frames="
            f"{run.objective.condition_frames} and model.begin_token={run.model.begin_token}; give them with --input"
        )
    if num_frames > run.data.num_frames and not sample.num_condition_frames:
        raise ConfigError(
            f"--num-frames {num_frames} is longer than the {run.data.num_frames} frames of a window, and windows go on "
            f"from each other with sample.num_condition_frames of 1 or more; ask for at most {run.data.num_frames} "
            "frames, or set it"
        )


def _check_work(num_videos: int, at_once: int, remedy: str) -> None:
    if num_videos < at_once:
        raise ConfigError(
            f"--num-videos {num_videos} leaves some of {at_once} groups of ranks without a video; ask for {at_once} or "
            f"more, or let ranks share one with {remedy}"
        )
