"""Autoregressive world models of other layouts on the ranks of a pool: saved as one of ours, asked, trained."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from support import tiny_ar
from torch import Tensor

from cosmos_train.config.load import to_yaml
from cosmos_train.generate.codes import CodeScene, generate_codes
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.source import open_source
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.vocabulary import whole_vocabulary
from cosmos_train.recipes.world_ar import WorldARTask
from cosmos_train.train.checkpoint.folder import Progress
from cosmos_train.train.checkpoint.save import save_run
from cosmos_train.train.checkpoint.saver import Saver
from cosmos_train.train.config import CheckpointConfig
from cosmos_train.train.loop import train

GREEDY = CodeSampleConfig(temperature=0, num_condition_frames=1)


def save_distributed(
    source: Path, run_dir: Path, parallel: ParallelConfig, dtype: str, model: dict[str, Any] | None = None
) -> None:
    """A checkpoint of step 0 in this layout, started from a world model of any layout. `model`: what is other in it."""
    found, mesh = open_source(source), init.start(parallel, seed=0)
    config = dataclasses.replace(found.require_ar(), **(model or {}))
    run = dataclasses.replace(tiny_ar.make_run(Path("unused"), run_dir, parallel), model=config)
    pieces, config = build_world_ar(run.model, parallel, mesh, dtype=getattr(torch, dtype), seed=5)
    load_pieces(found, pieces, mesh, new=["medusa.weight"])
    adam = AdamSettings(betas=run.optim.betas, eps=run.optim.eps, weight_decay=0.1, clip_grad_norm=1.0)
    progress = Progress(step=0, samples_consumed=0, seed=0, data_digest="", layout=mesh.layout)
    engine = Engine(pieces, config, mesh, adam)
    save_run(Saver(mesh), run_dir, engine, None, progress, to_yaml(run))


def answers(
    source: Path, parallel: ParallelConfig, ids_BL: Tensor, given_BTHW: Tensor, text_BSE: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(logits [B, L, V], greedy codes) of this rank, in one pipeline stage."""
    found, mesh = open_source(source), init.start(parallel, seed=0)
    [model], config = build_world_ar(found.require_ar(), parallel, mesh, dtype=torch.float32, seed=5)
    load_pieces(found, [model], mesh)
    frames, height, width = given_BTHW.shape[1:]
    with torch.no_grad():
        result = model(ids_BL, (height, width), text_BSE=text_BSE)
    assert isinstance(result, tuple)
    logits = whole_vocabulary(result[0].flatten(0, 1), mesh.tp).unflatten(0, result[0].shape[:2]).transpose(0, 1)
    scene = CodeScene(
        grid_THW=(frames, height, width), seed_B=range(len(ids_BL)), given_BTHW=given_BTHW, text_BSE=text_BSE
    )
    return logits, generate_codes(Decoder([model], config, mesh), scene, GREEDY, device=mesh.device)


def train_one_step(cache: Path, run_dir: Path, parallel: ParallelConfig, settings: dict[str, Any]) -> int:
    """`cosmos-train train` of the tiny model for a step. `settings`: of checkpoint, and fields of the model."""
    run = tiny_ar.make_run(cache, run_dir, parallel, num_steps=1)
    run = dataclasses.replace(
        run,
        checkpoint=CheckpointConfig(**settings["checkpoint"]),
        model=dataclasses.replace(run.model, **settings.get("model", {})),
    )
    mesh = init.start(run.parallel, seed=run.seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(run, WorldARTask(run, mesh), mesh, code_version="test")
