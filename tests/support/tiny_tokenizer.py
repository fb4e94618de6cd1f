"""A tiny tokenizer with a discriminator on real footage, and what tests ask of it on every rank."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.sample_plan.order import rank_slice
from cosmos_tok.config import TokenizerConfig
from cosmos_train.config.schema import TokenizerRun
from cosmos_train.objectives.adversarial import discriminator_hinge, generator_hinge
from cosmos_train.objectives.config import DiscriminatorConfig, ReconstructionConfig, TermConfig
from cosmos_train.parallel import engine, init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.tokenizer import TokenizerTask
from cosmos_train.train.checkpoint.folder import newest_checkpoint
from cosmos_train.train.checkpoint.load import load_weights
from cosmos_train.train.config import CheckpointConfig, OptimConfig, TrackingConfig, TrainConfig
from cosmos_train.train.loop import train

CONTINUOUS = TokenizerConfig(
    temporal_rate=4, channels=8, channel_multipliers=(1, 1, 1), num_res_blocks=1, z_channels=4, latent_channels=4
)
DISCRETE = dataclasses.replace(CONTINUOUS, kind="discrete", latent_channels=2, fsq_levels=(4, 3))
ADVERSARIAL = ReconstructionConfig(
    adversarial=TermConfig(weight=0.5, start_step=2), discriminator=DiscriminatorConfig(channels=8, num_halvings=2)
)


def make_run(manifest: Path, run_dir: Path, **settings: Any) -> TokenizerRun:
    """A run of 6 steps of 4 windows of 5 frames; `settings` replaces sections, and fields of the loop in `train`."""
    loop = {"num_steps": 6, "global_batch_size": 4, "micro_batch_size": 1, "log_every_steps": 1}
    sections: dict[str, Any] = {
        "data": DataConfig(manifest=str(manifest), num_frames=5, height_px=16, width_px=24, resize="crop"),
        "tokenizer": CONTINUOUS,
        "loss": ADVERSARIAL,
        "optim": OptimConfig(lr=1e-3, ema_decay=0.5, eps=1e-8),
        "checkpoint": CheckpointConfig(every_steps=2),
        "statistics_windows": 3,
    }
    return TokenizerRun(
        recipe="tokenizer",
        run_dir=str(run_dir),
        seed=3,
        train=TrainConfig(**loop | settings.pop("train", {})),
        tracking=TrackingConfig(wandb="disabled"),
        **sections | settings,
    )


def run_loop(manifest: Path, run_dir: Path, settings: dict[str, Any]) -> int:
    """Train as `cosmos-train train` does."""
    run = make_run(manifest, run_dir, **dict(settings))
    mesh = init.start(run.parallel, seed=run.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(run, TokenizerTask(run, mesh), mesh, code_version="test")


def sizes_of_batches(manifest: Path, settings: dict[str, Any], num_steps: int) -> list[tuple[int, int, int]]:
    """(T, H, W) of each step's pixels."""
    run = make_run(manifest, Path("unused"), **dict(settings))
    task, size = TokenizerTask(run, init.start(run.parallel, seed=run.seed)), run.train.global_batch_size
    batches = task.batches(range(step * size, (step + 1) * size) for step in range(num_steps))
    return [tuple(batch.pixels_B3THW.shape[2:]) for batch in batches]


def threads_of_batches(manifest: Path) -> tuple[int, list[str]]:
    """How many threads make batches while the first is used, and the names of those that are left when the caller wants
    no more."""
    run = make_run(manifest, Path("unused"))
    task, before = TokenizerTask(run, init.start(run.parallel, seed=run.seed)), set(threading.enumerate())
    batches = task.batches([index] for index in range(100))
    next(batches)
    started = set(threading.enumerate()) - before
    batches.close()
    for thread in started | set(threading.enumerate()) - before:
        thread.join(0 if thread.name.startswith("ThreadPool") else 60)  # a decoder's end by themselves
    return len(started), [thread.name for thread in set(threading.enumerate()) - before]


def saved(manifest: Path, run_dir: Path, averaged: bool) -> dict[str, Tensor]:
    """All weights of the run's newest checkpoint, or their moving average."""
    run = make_run(manifest, run_dir)
    mesh = init.start(ParallelConfig(), seed=run.seed)
    task = TokenizerTask(run, mesh)
    folder = newest_checkpoint(run_dir)
    assert folder is not None
    load_weights(folder, task.pieces, mesh, averaged=averaged)
    return {name: param.detach().clone() for name, param in task.model.named_parameters()}


def gradients(manifest: Path, run_dir: Path, settings: dict[str, Any], step: int) -> dict[str, Any]:
    """Of one micro-batch in that step: shape of its pixels, metrics, gradients after one backward pass, and what
    autograd gives for either side alone."""
    run = make_run(manifest, run_dir, **dict(settings))
    mesh = init.start(run.parallel, seed=run.seed)
    task = TokenizerTask(run, mesh)
    [batch] = task.batches([[step * run.train.global_batch_size]])
    loss, metrics = task.forward_loss(task.model, batch, None)
    loss.backward()
    found = {name: None if param.grad is None else param.grad.clone() for name, param in task.model.named_parameters()}
    answer = {"pixels": tuple(batch.pixels_B3THW.shape), "gradients": found}
    answer["metrics"] = {name: value.item() for name, value in metrics.items()}
    if task.model.discriminator is None:
        return answer
    video = batch.pixels_B3THW.float() / 127.5 - 1
    fake, _ = task.model(video)
    judge = dict(task.model.discriminator.named_parameters(prefix="discriminator"))
    own = discriminator_hinge(task.model.discriminator(video), task.model.discriminator(fake.detach()))
    answer["judge_alone"] = dict(zip(judge, torch.autograd.grad(own, list(judge.values())), strict=True))
    last = task.model.last_weight
    by_l1 = torch.autograd.grad((fake - video).abs().mean(), last, retain_graph=True)[0]
    by_judge = torch.autograd.grad(generator_hinge(task.model.discriminator(fake)), last)[0]
    answer["at_last_weight"] = (by_l1, by_judge, last.grad)
    return answer


def losses_with_overlap(
    manifest: Path, run_dir: Path, overlap: Literal["on", "off"], settings: dict[str, Any]
) -> list[dict[str, float]]:
    """Metrics and gradient norms of six steps, with gradients summed while others are computed, or after all."""
    run = make_run(manifest, run_dir, **dict(settings))
    mesh = init.start(run.parallel, seed=run.seed)
    task = TokenizerTask(run, mesh)
    adam = engine.AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip_grad_norm=0.1)
    under = engine.Engine(task.pieces, task.engine_config, mesh, adam, overlap_grad_reduce=overlap)
    found = []
    for step in range(6):
        mine = rank_slice(step, run.train.global_batch_size, mesh.dp.rank(), mesh.dp.size())
        batches = task.batches([[index] for index in mine])
        result = under.train_step(task.forward_loss, batches, num_micro_batches=len(mine), lr=1e-3, num_tokens=0)
        found.append(result.metrics | {"grad_norm": result.grad_norm})
    return found


def frames_of_steps(manifest: Path, run_dir: Path, settings: dict[str, Any], steps: Sequence[int]) -> list[list[int]]:
    """Frames of each of this rank's micro-batches, step by step."""
    run = make_run(manifest, run_dir, **dict(settings))
    mesh = init.start(run.parallel, seed=run.seed)
    task, counts = TokenizerTask(run, mesh), []
    for step in steps:
        mine = rank_slice(step, run.train.global_batch_size, mesh.dp.rank(), mesh.dp.size())
        batches = list(task.batches([[index] for index in mine]))
        assert {batch.step for batch in batches} == {step}
        counts.append([batch.pixels_B3THW.shape[2] for batch in batches])
    return counts
