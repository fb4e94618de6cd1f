"""World models of other layouts on the ranks of a pool: written as a checkpoint of ours, sampled, started from."""

import dataclasses
from pathlib import Path

from support import tiny_world
from torch import Tensor

from cosmos_train.config.load import to_yaml
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.network import in_turn
from cosmos_train.generate.world import Scene, sample_scene
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.source import open_source
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.checkpoint.folder import Progress
from cosmos_train.train.checkpoint.save import save_run
from cosmos_train.train.checkpoint.saver import Saver


def save_distributed(source: Path, run_dir: Path, parallel: ParallelConfig, dtype: str) -> None:
    """A checkpoint of step 0 in this layout, started from a world model of any layout."""
    found, mesh = open_source(source), init.start(parallel, seed=0)
    run = dataclasses.replace(tiny_world.make_run(Path("unused"), run_dir, parallel), model=found.require_dit())
    pieces, config = build_world_model(
        found.require_dit(), parallel, mesh, dtype=torch_dtype("bf16" if dtype == "bf16" else "fp32"), seed=5
    )
    load_pieces(found, pieces, mesh)
    adam = AdamSettings(betas=run.optim.betas, eps=run.optim.eps, weight_decay=0.1, clip_grad_norm=1.0)
    progress = Progress(step=0, samples_consumed=0, seed=0, data_digest="", layout=mesh.layout)
    engine = Engine(pieces, config, mesh, adam)
    save_run(Saver(mesh), run_dir, engine, None, progress, to_yaml(run))


def sample_on_ranks(source: Path, parallel: ParallelConfig, scene: Scene, config: SampleConfig) -> Tensor:
    """The latents that this rank gets."""
    found, mesh = open_source(source), init.start(parallel, seed=0)
    [model], _ = build_world_model(found.require_dit(), parallel, mesh, dtype=torch_dtype("fp32"), seed=5)
    load_pieces(found, [model], mesh)
    has_mask = model.net.config.condition_mask
    return sample_scene(in_turn(model.net), scene, config, sigma_data=0.5, has_condition_mask=has_mask)


def first_loss(cache: Path, run_dir: Path, weights: Path) -> float:
    """The first step's loss of a run with these weights, of any layout, its ranks data-parallel."""
    run = tiny_world.make_run(cache, run_dir, ParallelConfig())
    mesh = init.start(run.parallel, seed=run.seed)
    task = WorldDiTTask(run, mesh)
    task.warm_start(weights)
    adam = AdamSettings(betas=run.optim.betas, eps=run.optim.eps, weight_decay=0.1, clip_grad_norm=1.0)
    engine, indices = Engine(task.pieces, task.engine_config, mesh, adam), tiny_world.micro_batches(run, 0, mesh)
    result = engine.train_step(
        task.forward_loss, task.batches(indices), num_micro_batches=len(indices), lr=0.0, num_tokens=task.num_tokens
    )
    return result.metrics["loss"]
