"""A run of the tiny world model that encodes its own windows, of real footage, and all that it needs."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import clips, tiny_t5, tiny_world, training
from support.footage import CARPHONE, FOOTAGE
from support.tiny_tokenizer import CONTINUOUS

from cosmos_data.caches import window_cache
from cosmos_data.caches.shard_file import open_shard
from cosmos_data.config import DataConfig
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import record
from cosmos_launch.jobs import encode_rank
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.schema import LatentsConfig, WorldDiTRun
from cosmos_train.encoding import filling_cache as ahead
from cosmos_train.encoding import finished_cache as encode
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.text import cache as text_cache
from cosmos_train.text.config import TextConfig
from cosmos_train.train.loop import DONE, train
from cosmos_train.train.signals import StopSignals
from cosmos_train.windows.filled import FilledWindows

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


def write_two_aspects(folder: Path) -> Path:
    """A manifest of four clips of 5 frames: one of 640x272 px with an action, three of 176x144 of which two have a
    camera and one of those two is held out."""
    (folder / "videos").mkdir()
    for path in (CARPHONE, FOOTAGE / "bikes.mp4"):
        (folder / "videos" / path.name).symlink_to(path)
    found = build_manifest(folder / "videos", clip_frames=5, heldout_every=None).manifest
    bikes = next(clip for clip in found if "bikes" in clip.clip_id)
    first, second, third, *_ = (clip for clip in found if "carphone" in clip.clip_id)
    camera = record(Camera, clips.CAMERA, 0, "camera.")
    steps = round(5 * 10 / bikes.fps)
    action = Action(
        names=("x",), units=("m",), rate_hz=10.0, frame_of_reference="base", values=tuple(map(float, range(steps)))
    )
    made = [
        dataclasses.replace(bikes, action=action),
        first,
        dataclasses.replace(second, camera=camera),
        dataclasses.replace(third, camera=camera, split="heldout"),
    ]
    Manifest(made).write(folder / "two_aspects.arrow")
    return folder / "two_aspects.arrow"


def settings(
    inputs: Path,
    cache: Path,
    tokenizer: str = "tokenizer",
    *,
    fill: bool = True,
    image_share: float = 0.0,
    images_per_video: int = 1,
    **latents: Any,
) -> dict[str, Any]:
    """Three steps of four windows, and sections that replace those of the tiny world model."""
    data = DataConfig(manifest=str(inputs / "footage.arrow"), num_frames=9, height_px=32, width_px=48, num_workers=2)
    latents = {"statistics_windows": 4} | latents
    section = LatentsConfig(folder=str(cache), tokenizer=str(inputs / tokenizer), fill=fill, **latents)
    run = {"data": data, "latents": section, "text": TextConfig(encoder=str(inputs / "t5"), max_tokens=8)}
    run |= {"image_share": image_share, "images_per_video": images_per_video}
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
    videos = task.source.streams["video"]
    return videos.maker.encoder.num_encoded if isinstance(videos, FilledWindows) else 0


def kept_windows(cache: Path) -> dict[str, int]:
    """Key of each window in a cache that fills -> inode of its shard."""
    inodes = {}
    for path in (cache / window_cache.FOLDER).glob("[!.]*.arrow"):
        keys = open_shard(path, window_cache.KIND).batch.column("key").to_pylist()
        inodes |= dict.fromkeys(keys, path.stat().st_ino)
    return inodes


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


def gather_made() -> list[int] | None:
    """What all ranks made, of which each made one shard; in a layout whose data-parallel group is the rank alone."""
    mesh = init.start(ParallelConfig(tp=2), seed=0)
    return encode._of_all_ranks([mesh.world.rank()], mesh)


def encode_ahead(run: WorldDiTRun, num_samples: int, is_asked: bool) -> int:
    """Encode this rank's share of the run's first samples; is_asked: to stop, which it does after the first batch."""
    mesh, stop = init.start(ParallelConfig(), seed=run.seed), StopSignals()
    if is_asked:
        stop.ask(signal.SIGTERM)
    return ahead.encode_share(run, num_samples, mesh, stop)


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
