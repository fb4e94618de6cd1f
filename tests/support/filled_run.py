"""A run of the tiny world model that encodes its own windows, of real footage, and all that it needs."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_t5, tiny_world, training
from support.footage import CARPHONE
from support.tiny_tokenizer import CONTINUOUS

from cosmos_data.build import build_manifest
from cosmos_data.config import DataConfig
from cosmos_launch import encode, encode_rank
from cosmos_tok import text_cache
from cosmos_tok.config import TextConfig, TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.schema import LatentsConfig, WorldDiTRun
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.loop import DONE, train
from cosmos_train.train.signals import StopSignals

NUM_WINDOWS = 12
"""That the run takes."""


def write_tokenizer(folder: Path, config: TokenizerConfig = CONTINUOUS, seed: int = 0) -> Path:
    """Random weights; of 9 frames of 32 x 48 it makes the latents of the tiny world model, [4, 3, 4, 6]."""
    torch.manual_seed(seed)
    tokenizer = CausalVideoTokenizer(config)
    tokenizer.init_weights()
    save_tokenizer(folder, tokenizer, config, {}, statistics=LatentStatistics(torch.zeros(4, 3), torch.ones(4, 3)))
    return folder


def write_inputs(folder: Path) -> Path:
    """footage.arrow of three training clips and a held-out one, with a caption; tokenizer, other_tokenizer, t5."""
    (folder / "t5").mkdir()
    tiny_t5.write_t5(folder / "t5")
    (folder / "videos").mkdir()
    (folder / "videos" / "carphone.mp4").symlink_to(CARPHONE)
    (folder / "videos" / "carphone.txt").write_text("a red ball")
    build_manifest(folder / "videos", clip_frames=30, heldout_every=4).manifest.write(folder / "footage.arrow")
    write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "other_tokenizer", seed=1)
    return folder


def settings(
    inputs: Path, cache: Path, tokenizer: str = "tokenizer", *, fill: bool = True, **latents: Any
) -> dict[str, Any]:
    """Three steps of four windows, and sections that replace those of the tiny world model."""
    data = DataConfig(manifest=str(inputs / "footage.arrow"), num_frames=9, height_px=32, width_px=48, num_workers=2)
    section = LatentsConfig(folder=str(cache), tokenizer=str(inputs / tokenizer), fill=fill, **latents)
    run = {"data": data, "latents": section, "text": TextConfig(encoder=str(inputs / "t5"), max_tokens=8)}
    return {"num_steps": 3, "run": run}


def make_run(inputs: Path, cache: Path, run_dir: Path, **latents: Any) -> WorldDiTRun:
    """The whole configuration, of one process."""
    of_run = settings(inputs, cache, **latents)
    run = tiny_world.make_run(cache, run_dir, ParallelConfig(), num_steps=of_run["num_steps"])
    return dataclasses.replace(run, **of_run["run"])


def train_here(run: WorldDiTRun) -> int:
    """Train in this process. How many windows were encoded."""
    mesh = init.start(run.parallel, seed=run.seed)
    Path(run.run_dir).mkdir(parents=True, exist_ok=True)
    task = WorldDiTTask(run, mesh)
    assert train(run, task, mesh, code_version="test") == DONE
    init.stop()
    return task.windows.encoder.num_encoded  # pyright: ignore[reportAttributeAccessIssue] latents.fill=true


def encode_share(run: WorldDiTRun) -> tuple[int, list[Path]]:
    """Make this rank's shards of a finished cache. Returns the exit code, and the folders whose weights it hashed."""
    hashed: list[Path] = []

    def noting(digest: Callable[[Path], str]) -> Callable[[Path], str]:
        def noted(folder: Path) -> str:
            hashed.append(folder)
            return digest(folder)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "tokenizer_digest", noting(encode.tokenizer_digest))
        for module in (encode, text_cache):
            patch.setattr(module, "encoder_digest", noting(text_cache.encoder_digest))
        code = encode.encode_share(run, init.start(ParallelConfig(), seed=run.seed), StopSignals())
    return code, hashed


def encode_as_rank(environment: dict[str, str], arguments: list[str]) -> int:
    """Be a process of `tokenize`, the rank that these variables say."""
    os.environ.update(environment)
    return encode_rank.main(arguments)


def trained(run_dir: Path) -> dict[int, dict[str, float]]:
    """Of each step what depends on the data and the weights alone."""
    return {
        step: {name: record[name] for name in ("loss", "error", "grad_norm")}
        for step, record in training.steps(run_dir).items()
    }
