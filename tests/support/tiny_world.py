"""A tiny world model on a real latent cache of random latents, and what tests ask of it on every rank."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from support.latent_cache import LatentWriter
from torch import Tensor, nn

from cosmos_data.caches.latents import LatentMetadata
from cosmos_data.config import DataConfig
from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.sample_plan.order import rank_slice
from cosmos_data.sample_plan.window_conditions import BARE, WindowConditions
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_train.config.schema import LatentsConfig, RunConfig, WorldDiTRun
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine, StepResult
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import local_slice, partition_dim, whole_shape
from cosmos_train.recipes.table import make_task
from cosmos_train.train.config import CheckpointConfig, OptimConfig, TrackingConfig, TrainConfig
from cosmos_train.train.task import Task
from cosmos_train.windows.kept import STATISTICS

SHAPE_CTHW = (4, 3, 4, 6)
"""Latents of a window: 18 tokens."""
CLIP_GRAD_NORM = 0.01
"""Less than any of these models' norms is, so every step clips."""
MODEL = DiTConfig(
    num_blocks=4, num_heads=4, head_dim=12, adaln_rank=8, latent_channels=4, text_width=8, condition_mask=True
)
NUM_FRAMES = 17
"""Pixel frames of a window, 8 of a latent frame."""
STEERED = replace(MODEL, extra_channels=6, action_frames="each", action_width=8 * 3, num_embodiments=2)
"""The model, steered by a camera's path and by the actions of two robots."""


def write_cache(
    folder: Path,
    *,
    num_windows: int = 12,
    shape_CTHW: tuple[int, ...] = SHAPE_CTHW,
    broken: bool = False,
    is_steered: bool = False,
) -> Path:
    """A complete latent cache with two captions, frame rates that differ, and statistics. broken: one window is NaN;
    is_steered: windows have cameras, and actions of two robots."""
    generator = torch.Generator().manual_seed(7)
    writer = begin_cache(folder, MODEL.text_width, generator)
    for clip in range(num_windows // 3):
        z = torch.randn(3, *shape_CTHW, generator=generator) * 2 + 0.5
        if broken and clip == 0:
            z[1] = torch.nan
        split = "heldout" if clip == num_windows // 3 - 1 else "train"
        fps = 24.0 if clip % 2 else 30.0
        conditions = steering(clip, fps, shape_CTHW[2:]) if is_steered else BARE
        writer.add_clip(
            f"clip{clip}", z, [0, 8, 16], split=split, caption="ab"[clip % 2], fps=fps, conditions=conditions
        )
    writer.finish()
    c, t = shape_CTHW[:2]
    statistics = LatentStatistics(mean_CT=torch.full((c, t), 0.5), std_CT=torch.full((c, t), 2.0))
    save_statistics(folder / STATISTICS, statistics)
    return folder


def steering(clip: int, fps: float, latent_HW: tuple[int, ...]) -> WindowConditions:
    """A path straight ahead that differs by clip, and random actions of one of two robots, by the clip's rate."""
    generator = np.random.default_rng(clip)
    height_px, width_px = (8 * cells for cells in latent_HW)
    matrices_T34 = np.tile(np.eye(4)[:3], (NUM_FRAMES, 1, 1))
    matrices_T34[:, :, 3] = np.arange(NUM_FRAMES)[:, None] * generator.standard_normal(3) * 0.1
    camera = Camera(
        convention="camera_to_world_opencv",
        intrinsics_px=(width_px, width_px, width_px / 2, height_px / 2),
        height_px=height_px,
        width_px=width_px,
        extrinsics=tuple(matrices_T34.ravel().tolist()),
    )
    names = ("x", "y", "gripper") if fps == 24 else ("x", "y")
    values = generator.standard_normal((NUM_FRAMES, len(names))).ravel().tolist()
    action = Action(
        names=names,
        units=("m",) * len(names),
        rate_hz=fps,
        frame_of_reference="base",
        values=tuple(values),
        embodiment="arm" if fps == 24 else "pusher",
    )
    return WindowConditions(camera=camera, action=action)


def begin_cache(
    folder: Path, text_width: int, generator: torch.Generator, window_frames: int = NUM_FRAMES
) -> LatentWriter:
    """A cache with the states of captions "a" and "b", and no clip yet."""
    metadata = LatentMetadata(
        tokenizer_digest="0" * 64,
        text_encoder="test",
        manifest_digest="1" * 64,
        window_frames=window_frames,
        height_px=32,
        width_px=48,
    )
    writer = LatentWriter(folder, metadata)
    for caption, length in (("a", 3), ("b", 5)):
        writer.add_text(caption, torch.randn(length, text_width, generator=generator))
    return writer


def make_run(
    cache: Path, run_dir: Path, parallel: ParallelConfig, model: DiTConfig = MODEL, **train: Any
) -> WorldDiTRun:
    """A run of the tiny model; `train` overrides fields of its loop."""
    return WorldDiTRun(
        recipe="world_dit",
        model=model,
        objective=EdmConfig(max_condition_frames=1),
        **common_sections(cache, run_dir, parallel, train),
    )


def common_sections(cache: Path, run_dir: Path, parallel: ParallelConfig, train: dict[str, Any]) -> dict[str, Any]:
    """What runs of every tiny world model have; `train` overrides fields of the loop."""
    loop = {"num_steps": 4, "global_batch_size": 4, "micro_batch_size": 1, "log_every_steps": 1}
    return {
        "run_dir": str(run_dir),
        "seed": 3,
        "train": TrainConfig(**(loop | train)),
        "optim": OptimConfig(lr=1e-3, ema_decay=0.5, eps=1e-8),
        "parallel": parallel,
        "checkpoint": CheckpointConfig(every_steps=2),
        "tracking": TrackingConfig(wandb="disabled"),
        "data": DataConfig(manifest="unused.parquet", num_frames=NUM_FRAMES, height_px=32, width_px=48),
        "latents": LatentsConfig(folder=str(cache), tokenizer="unused"),
    }


def start(run: RunConfig) -> tuple[Task, Engine, Mesh]:
    """The run's task under the engine, on this rank, with weights in which nothing is zero."""
    mesh = init.start(run.parallel, seed=run.seed)
    task = make_task(run, mesh)
    stir_zeros(task, mesh)
    adam = AdamSettings(
        betas=run.optim.betas,
        eps=run.optim.eps,
        weight_decay=0.1,
        clip_grad_norm=CLIP_GRAD_NORM,
        lr_factors=run.lr_factors,
    )
    overlap = run.parallel.overlap_grad_reduce
    return task, Engine(task.pieces, task.engine_config, mesh, adam, overlap_grad_reduce=overlap), mesh


def micro_batches(run: RunConfig, step: int, mesh: Mesh) -> list[list[int]]:
    """This rank's sample indices of one step."""
    train = run.train
    mine = list(rank_slice(step, train.global_batch_size, mesh.dp.rank(), mesh.dp.size()))
    return [mine[i : i + train.micro_batch_size] for i in range(0, len(mine), train.micro_batch_size)]


def train_steps(
    run: RunConfig, task: Task, engine: Engine, mesh: Mesh, num_steps: int, *, lr: float
) -> Iterator[StepResult]:
    """The first steps of the run, one after the other."""
    for step in range(num_steps):
        indices = micro_batches(run, step, mesh)
        yield engine.train_step(
            task.forward_loss,
            task.batches(indices),
            num_micro_batches=len(indices),
            lr=lr,
            num_tokens=task.num_tokens,
        )


def answers(
    cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int, num_steps: int = 3
) -> dict[str, Any]:
    """What parity is measured by, on this rank: first loss and whole gradients, whole parameters after some steps."""
    return answers_of(make_run(cache, run_dir, parallel, micro_batch_size=micro_batch_size), num_steps)


def steered_answers(
    cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int, num_steps: int = 3
) -> dict[str, Any]:
    """The same of the model that is steered, on a cache whose windows have conditions."""
    return answers_of(make_run(cache, run_dir, parallel, STEERED, micro_batch_size=micro_batch_size), num_steps)


def answers_of_part(cache: Path, run_dir: Path, parallel: ParallelConfig, factors: dict[str, float]) -> dict[str, Any]:
    """The same where parameters are trained at rates by their names."""
    run = make_run(cache, run_dir, parallel)
    return answers_of(replace(run, optim=replace(run.optim, lr_factors=factors)), 2)


def answers_of(run: RunConfig, num_steps: int) -> dict[str, Any]:
    """The same, of any run."""
    task, engine, mesh = start(run)
    indices = micro_batches(run, 0, mesh)
    engine.zero_gradients()
    found = engine._run(task.forward_loss, task.batches(indices), len(indices), task.num_tokens, forward_only=False)
    _gather_gradient_shards(engine, mesh)
    trained = ((name, param) for name, param in parameters(task) if param.requires_grad)
    gradients = {name: whole(param.main_grad, param, mesh) for name, param in trained}
    results = list(train_steps(run, task, engine, mesh, num_steps, lr=1e-3))
    return {
        "loss": found.means["loss"],
        "gradients": gradients,
        "losses": [result.metrics["loss"] for result in results],
        "grad_norms": [result.grad_norm for result in results],
        "parameters": whole_parameters(task, mesh),
    }


def parameters(task: Task) -> Iterator[tuple[str, nn.Parameter]]:
    """What this rank holds of the model, under the names of the whole model."""
    for piece in task.pieces:
        yield from piece.named_parameters()


def whole_parameters(task: Task, mesh: Mesh) -> dict[str, Tensor]:
    """The undivided values of the parameters that this rank holds a part of."""
    return {name: whole(param.detach(), param, mesh) for name, param in parameters(task)}


def whole(tensor: Tensor, param: Tensor, mesh: Mesh) -> Tensor:
    """The undivided tensor, of one that is divided as `param` is."""
    dim = partition_dim(param)
    if dim is None:
        return tensor.clone()
    parts = [torch.empty_like(tensor) for _ in range(mesh.tp.size())]
    dist.all_gather(parts, tensor.contiguous(), group=mesh.tp)
    return torch.cat(parts, dim=dim)


def _gather_gradient_shards(engine: Engine, mesh: Mesh) -> None:
    """The distributed optimizer leaves each rank that has a parameter only its part of the summed gradients."""
    for buffer in itertools.chain.from_iterable(ddp.buffers for ddp in engine.ddps):
        for bucket in buffer.buckets:
            shards = list(bucket.grad_data.chunk(mesh.replicas.size()))
            dist.all_gather(shards, shards[mesh.replicas.rank()].clone(), group=mesh.replicas)


def stir_zeros(task: Task, mesh: Mesh) -> None:
    """Modulation and adapters start at zero, which would hide most gradients; give them small values, alike in every
    layout."""
    endings = ("modulation.up.weight", "embodiment.weight", "lora.b")
    with torch.no_grad():
        for name, param in parameters(task):
            if name.endswith(endings) or name == "uncertainty.linear.weight":
                generator = torch.Generator().manual_seed(len(name))
                whole_values = torch.randn(whole_shape(param, mesh), generator=generator) * 0.1
                param.copy_(local_slice(whole_values, param, mesh))
