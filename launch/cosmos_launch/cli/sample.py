"""`cosmos-train sample RUN`: videos from a trained world model, each as NAME.mp4 beside a NAME.json that says how.

Several videos are several futures of one state: text and first frames are encoded once, the videos are one batch, and
grid.mp4 shows them side by side. Data-parallel ranks divide them, other ranks work on the same ones.
"""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from cosmos_data.videos.media import read_first_frames, tile, write_mp4
from cosmos_launch.cli.sample_request import SampleRequest
from cosmos_launch.jobs.tell_wandb import tell_wandb
from cosmos_train.generate.network import videos_of_rank
from cosmos_train.generate.rollout import num_windows, roll_out
from cosmos_train.generate.world import window_seeds
from cosmos_train.train.telling.progress import progress
from cosmos_train.worlds.load_to_sample import load_to_sample
from cosmos_train.worlds.trained import TrainedWorld, open_run


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all videos share, computed once."""

    text: Tensor | None
    given: Tensor | None
    """Latents of the first frames."""
    fps: float


@dataclass(slots=True)
class Clock:
    """Seconds of each part of the work, on this rank."""

    conditioned_sec: float = 0.0
    """Text and input, once for all videos."""
    sampled_sec: float = 0.0
    coded_sec: float = 0.0
    """Latents to pixels, and back where windows go on from each other."""


def sample(path: Path, overrides: Sequence[str], request: SampleRequest, *, out: Path) -> int:
    """Sample and, on the main rank, write. Returns the exit code."""
    folder, run = open_run(path, overrides)
    num_frames = request.num_frames or run.data.num_frames
    world = load_to_sample(
        folder,
        run,
        num_videos=request.num_videos,
        num_frames=num_frames,
        has_input=request.input_path is not None,
        has_prompt=bool(request.prompt),
    )
    clock = Clock()
    started = time.perf_counter()
    conditions = _condition(world, request)
    clock.conditioned_sec = time.perf_counter() - started
    mine = videos_of_rank(request.num_videos, world.mesh, num_parallel=world.num_parallel)
    seeds = [request.seed + index for index in mine]
    videos_B3THW = _generate(world, conditions, seeds, num_frames, clock)
    videos = _on_main(world, dict(zip(seeds, videos_B3THW, strict=True)))
    if world.mesh.is_main:
        _write(out, videos, conditions.fps, _facts(world, request, conditions.fps, num_frames, clock, len(seeds)))
        tell_wandb(folder, out, run.tracking)
    return 0


def _condition(world: TrainedWorld, request: SampleRequest) -> Conditions:
    text, given = world.read_prompts({"prompt": request.prompt}), None
    if request.input_path is not None:
        num_frames = world.frames_for(world.run.sample.num_condition_frames)
        pixels_3THW = read_first_frames(request.input_path, num_frames, world.run.data, crop=request.crop_input)
        given = world.encode(pixels_3THW[None])
    return Conditions(text, given, request.fps or world.fps)


def _generate(
    world: TrainedWorld, conditions: Conditions, seeds: Sequence[int], num_frames: int, clock: Clock
) -> Tensor:
    """uint8 [B, 3, T, H, W], a window after the other."""
    codec, num_given = world.tokenizer_config, max(1, world.run.sample.num_condition_frames)
    trained_frames = world.latent_shape[1]
    fitting = next(
        t for t in range(1, trained_frames + 1) if t == trained_frames or codec.pixel_frames(t) >= num_frames
    )
    window_frames, overlap_frames = codec.pixel_frames(fitting), codec.pixel_frames(num_given)
    count = num_windows(num_frames, window_frames=window_frames, overlap_frames=overlap_frames)
    per_window = world.num_steps(fitting)
    started = time.perf_counter()
    shown = progress("sample", "steps") if world.mesh.is_main else nullcontext(lambda _done, _total: None)
    with shown as advance:

        def sample_window(given: Tensor | None, window: int) -> Tensor:
            before, begin = window * per_window, time.perf_counter()
            latents = world.sample_window(
                conditions.text,
                window_seeds(seeds, window),
                given,
                num_latent_frames=fitting,
                fps_B=[conditions.fps] * len(seeds),
                on_step=lambda step: advance(before + step, count * per_window),
            )
            clock.sampled_sec += time.perf_counter() - begin
            return latents

        videos = roll_out(
            sample_window,
            conditions.given,
            encode=world.encode,
            decode=world.decode,
            num_frames=num_frames,
            window_frames=window_frames,
            overlap_frames=overlap_frames,
        )
    clock.coded_sec = time.perf_counter() - started - clock.sampled_sec
    return videos


def _on_main(world: TrainedWorld, mine: dict[int, Tensor]) -> dict[int, Tensor]:
    """The videos of all data-parallel ranks by seed, on the main rank."""
    dp = world.mesh.dp
    found: list[Any] = [mine] * dp.size()
    if dp.size() > 1:
        own = {seed: video.clone() for seed, video in mine.items()}  # a view would travel with all of its batch
        dist.gather_object(own, found if dp.rank() == 0 else None, group=dp, group_dst=0)
    return {seed: video for part in found for seed, video in sorted(part.items())}


def _facts(
    world: TrainedWorld, request: SampleRequest, fps: float, num_frames: int, clock: Clock, num_videos: int
) -> dict[str, Any]:
    """What each video's JSON says besides its seed; seconds are those of one video."""
    return {
        "prompt": request.prompt,
        "input": None if request.input_path is None else str(request.input_path),
        "fps": fps,
        "num_frames": num_frames,
        "checkpoint": str(world.checkpoint_folder),
        "step": world.step,
        "averaged_weights": world.averaged,
        "weights_digest": world.weights_digest,
        "tokenizer_digest": world.tokenizer_digest,
        "layout": world.mesh.layout,
        "conditioned_sec": round(clock.conditioned_sec, 3),
        "sampled_sec": round(clock.sampled_sec / num_videos, 3),
        "decoded_sec": round(clock.coded_sec / num_videos, 3),
        "sample": asdict(world.run.sample),
    }


def _write(out: Path, videos: dict[int, Tensor], fps: float, facts: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    named: dict[str, tuple[Tensor, dict[str, Any]]] = {
        f"seed-{seed:04d}": (video, {"seed": seed}) for seed, video in videos.items()
    }
    if len(videos) > 1:
        named["grid"] = tile(list(videos.values())), {"seeds": list(videos)}
    for name, (video_3THW, own) in named.items():
        write_mp4(out / f"{name}.mp4", video_3THW, fps=fps)
        (out / f"{name}.json").write_text(json.dumps(own | facts, indent=1))
        print(out / f"{name}.mp4")
