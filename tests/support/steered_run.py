"""Runs of one step, of a model that is steered by a camera and by actions and of one that is not, and the first one's
official file."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import torch
from support import tiny_tokenizer, tiny_world
from support.latent_cache import LatentWriter
from support.training import train_stirred

from cosmos_data.caches.latents import LatentMetadata
from cosmos_data.config import DataConfig
from cosmos_data.manifests.conditions import Action
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.steering.camera_path import read_camera
from cosmos_data.steering.steered import SteeredVideo
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer, tokenizer_digest
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_train.conditions.action_statistics import ACTIONS
from cosmos_train.config.schema import LatentsConfig
from cosmos_train.interop.names import official_tensors
from cosmos_train.interop.official_dit import write_official
from cosmos_train.interop.source import open_source
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.text.config import TextConfig
from cosmos_train.windows.kept import STATISTICS

FRAMES, SIZE_PX, FPS, TEXT_WIDTH = 9, 32, 10.0, 384
LATENTS_CTHW = (4, 3, 4, 4)
DATA = DataConfig(manifest="unused.parquet", num_frames=FRAMES, height_px=SIZE_PX, width_px=SIZE_PX)
VIDEO = SteeredVideo(num_frames=FRAMES, fps=FPS, height_px=SIZE_PX, width_px=SIZE_PX)


def conditions_of(number: int) -> WindowConditions:
    """A pan and random actions, which differ by window."""
    values = np.random.default_rng(number).normal(size=2 * FRAMES).tolist()
    action = Action(
        names=("x", "y"), units=("px", "px"), rate_hz=FPS, frame_of_reference="picture", values=tuple(values)
    )
    return WindowConditions(camera=read_camera(f"pan:{10 * number},fov_deg=60", VIDEO, DATA), action=action)


def write(folder: Path) -> None:
    """`steered`, a run of one step on random latents with conditions, and `plain`, one that reads none."""
    torch.manual_seed(0)
    save_tokenizer(folder / "tokenizer", CausalVideoTokenizer(tiny_tokenizer.CONTINUOUS), tiny_tokenizer.CONTINUOUS, {})
    text = TextConfig(max_tokens=8)
    metadata = LatentMetadata(
        tokenizer_digest=tokenizer_digest(folder / "tokenizer"),
        text_encoder=text.identity_on("cpu"),
        manifest_digest="1" * 64,
        window_frames=FRAMES,
        height_px=SIZE_PX,
        width_px=SIZE_PX,
    )
    writer = LatentWriter(folder / "latents", metadata)
    writer.add_text("a ball", torch.randn(3, TEXT_WIDTH))
    for number in range(4):
        writer.add_clip(
            f"clip{number}",
            torch.randn(1, *LATENTS_CTHW),
            [0],
            split="train",
            caption="a ball",
            fps=FPS,
            conditions=conditions_of(number),
        )
    writer.finish()
    ones = torch.ones(LATENTS_CTHW[:2])
    save_statistics(folder / "latents" / STATISTICS, LatentStatistics(mean_CT=0 * ones, std_CT=ones))
    for name, reads in (
        ("steered", {"extra_channels": 6, "action_frames": "each", "action_width": 8}),
        ("plain", {}),
    ):
        model = dataclasses.replace(tiny_world.MODEL, num_blocks=2, text_width=TEXT_WIDTH, **reads)
        run = tiny_world.make_run(folder / "latents", folder / name, ParallelConfig(), model, num_steps=1)
        latents = LatentsConfig(folder=str(folder / "latents"), tokenizer=str(folder / "tokenizer"))
        train_stirred(dataclasses.replace(run, data=DATA, text=text, latents=latents))


def write_official_file(folder: Path) -> Path:
    """The steered run's average as NVIDIA's code names it, and beside it what actions are normalised with. Its actions
    are of each latent frame, which no released file has; nothing in it says so but its width."""
    (folder / "official").mkdir()
    source = open_source(folder / "steered", weights="ema")
    [statistics] = (folder / "steered/checkpoints").glob(f"*/{ACTIONS}")
    shutil.copy(statistics, folder / "official")
    return write_official(folder / "official", "official", official_tensors(source.entries, source.ours))
