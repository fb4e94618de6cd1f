"""A tiny autoregressive world model, with all that the released kinds have, on a real cache of random codes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support import tiny_world

from cosmos_data.sample_plan.window_conditions import BARE
from cosmos_train.config.schema import WorldARRun
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel.config import ParallelConfig

MODEL = WorldARConfig(
    num_blocks=4,
    width=40,
    num_heads=8,
    num_kv_heads=4,
    head_dim=12,
    ffn_width=64,
    vocab_size=32,
    begin_token=True,
    cross_attention=True,
    text_width=8,
    absolute_positions=True,
    yarn_scale=2.0,
    yarn_original_THW=(2, 3, 4),
)


STEERED = replace(MODEL, action_width=3)
"""The model with an action in the place of text."""


def write_cache(
    folder: Path, *, shape_THW: tuple[int, int, int], num_windows: int = 12, is_steered: bool = False
) -> Path:
    """A complete cache of codes with two captions; is_steered: of frames coded one by one, with actions."""
    generator = torch.Generator().manual_seed(7)
    window_frames = shape_THW[0] if is_steered else tiny_world.NUM_FRAMES
    writer = tiny_world.begin_cache(folder, MODEL.text_width, generator, window_frames)
    for clip in range(num_windows // 3):
        codes = torch.randint(MODEL.vocab_size, (3, 1, *shape_THW), generator=generator, dtype=torch.int32)
        conditions = tiny_world.steering(clip, 24.0, shape_THW[1:]) if is_steered else BARE
        writer.add_clip(
            f"clip{clip}", codes, [0, 8, 16], split="train", caption="ab"[clip % 2], fps=24.0, conditions=conditions
        )
    writer.finish()
    return folder


def make_run(
    cache: Path, run_dir: Path, parallel: ParallelConfig, model: WorldARConfig = MODEL, **train: Any
) -> WorldARRun:
    """A run of the tiny model; `train` overrides fields of its loop."""
    sections = tiny_world.common_sections(cache, run_dir, parallel, train)
    return WorldARRun(recipe="world_ar", model=model, **sections)


def steered_answers(
    cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int, num_steps: int = 3
) -> dict[str, Any]:
    """See tiny_world.answers; of the model that reads actions, without the gradients that are nothing but rounding:
    where there is one token to attend to, queries and keys have none."""
    run = make_run(cache, run_dir, parallel, STEERED, micro_batch_size=micro_batch_size)
    found = tiny_world.answers_of(run, num_steps)
    parts = ("norm", "attention.q", "attention.q_layernorm", "attention.k_layernorm")
    nothing = tuple(f"cross_{part}.weight" for part in parts)
    found["gradients"] = {name: one for name, one in found["gradients"].items() if not name.endswith(nothing)}
    return found


def answers(
    cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int, num_steps: int = 3
) -> dict[str, Any]:
    """See tiny_world.answers."""
    return tiny_world.answers_of(make_run(cache, run_dir, parallel, micro_batch_size=micro_batch_size), num_steps)
