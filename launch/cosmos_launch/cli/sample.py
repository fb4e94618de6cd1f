"""`cosmos-train sample RUN`: videos from a trained world model, each as NAME.mp4 beside a NAME.json that says how. RUN
is a run, one of its checkpoints, or another file that the configuration of a run describes.

Several videos are several futures of one state, by their seeds or by what steers them: text and first frames are
encoded once, the videos are one batch, and grid.mp4 shows them side by side. Data-parallel ranks divide them, other
ranks work on the same ones.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.manifests.rows import plain_values
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.steering.overlay import draw_conditions
from cosmos_data.videos.media import read_first_frames, tile, write_mp4
from cosmos_data.whole_file import remove_abandoned
from cosmos_launch.cli.sample_conditions import read_conditions
from cosmos_launch.cli.sample_request import Future, SampleRequest
from cosmos_launch.jobs.tell_wandb import tell_wandb
from cosmos_train.evaluate.following.places import shift_px
from cosmos_train.generate.network import videos_of_rank
from cosmos_train.interop.adapter_files import AdapterFile
from cosmos_train.train.telling.progress import progress
from cosmos_train.worlds.file import find_world
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import RunCheckpoint, require_sampling
from cosmos_train.worlds.world import Clock, World

STILL_PX = 0.1
"""Edges of pictures that stand still are taken to move by less than this."""


def sample(
    path: Path, overrides: Sequence[str], request: SampleRequest, *, out: Path, config: str | None = None
) -> int:
    """Sample and, on the main rank, write. Returns the exit code.

    Args:
        config: the YAML of a run that describes a file; None of a run.
    """
    adapters = [AdapterFile.parse(text, request.alpha) for text in request.adapters]
    found = find_world(path, overrides, config=config, fps=request.fps, adapters=adapters)
    num_frames = request.num_frames or found.run.data.num_frames
    futures = request.futures
    require_sampling(
        found.run,
        num_videos=len(futures),
        num_frames=num_frames,
        has_input=request.input_path is not None,
        has_prompt=bool(request.prompt),
    )
    conditions = read_conditions(request, found, num_frames)
    world, clock = open_world(found), Clock()
    mine = videos_of_rank(len(futures), world.mesh, num_parallel=world.num_parallel)
    own_conditions = conditions[mine.start : mine.stop]
    seeds = [futures[number].seed for number in mine]
    videos_B3THW = sample_request(world, request, found.run.data, seeds, num_frames, clock, own_conditions)
    videos = _on_main(world, dict(zip(mine, videos_B3THW, strict=True)))
    fps = request.fps or world.require_windows().fps
    facts = _facts(world, request, fps, num_frames, clock, len(seeds))
    if world.mesh.is_main:
        _write(out, request, videos, conditions, fps, facts)
        if isinstance(found, RunCheckpoint):
            tell_wandb(found.folder, out, found.run.tracking)
    return 0


def sample_request(
    world: World,
    request: SampleRequest,
    data: DataConfig,
    seeds: Sequence[int],
    num_frames: int,
    clock: Clock,
    conditions: Sequence[WindowConditions] = (),
) -> Tensor:
    """Return this rank's videos, uint8 [B, 3, T, H, W], and show how far they are."""
    first_frames_3THW = None
    clock.lap()  # so that reading the input is what the first part of the work begins with
    if request.input_path is not None:
        num_given = world.frames_for(world.sampling.num_condition_frames)
        first_frames_3THW = read_first_frames(request.input_path, num_given, data, crop=request.crop_input)
    with progress("sample", "steps", is_told=world.mesh.is_main) as advance:
        return world.sample(
            request.prompt,
            first_frames_3THW,
            seeds=seeds,
            conditions=conditions,
            num_frames=num_frames,
            fps=request.fps,
            on_progress=advance,
            clock=clock,
        )


def _on_main(world: World, mine: dict[int, Tensor]) -> dict[int, Tensor]:
    """Gather the videos of all data-parallel ranks, by number, on the main rank; others return their own."""
    dp = world.mesh.dp
    found: list[Any] = [mine] * dp.size()
    if dp.size() > 1:
        own = {number: video.clone() for number, video in mine.items()}  # a view would travel with all of its batch
        dist.gather_object(own, found if dp.rank() == 0 else None, group=dp, group_dst=0)
    videos = dict[int, Tensor]()
    for part in found:
        videos |= part
    return videos


def _written(future: Future, conditions: WindowConditions | None) -> dict[str, Any]:
    """Return what the JSON of one video says that others' do not: its seed, and what steered it."""
    facts: dict[str, Any] = {"seed": future.seed}
    if conditions is not None:
        facts |= {"camera": future.camera, "actions": future.actions}
        facts["conditions"] = {"camera": plain_values(conditions.camera), "action": plain_values(conditions.action)}
    return facts


def tell_movement(name: str, video_3THW: Tensor, conditions: WindowConditions) -> float:
    """Return how far edges have moved since the first frame, in pixels, mean over the middle frame and the last one.

    Standard error tells where that is nothing, though the camera or the actions are to move something.
    """
    num_frames = video_3THW.shape[1]
    frames_T3HW = video_3THW[:, [0, num_frames // 2, num_frames - 1]].transpose(0, 1)
    moved_px = round(shift_px(frames_T3HW.permute(0, 2, 3, 1).numpy()), 3)
    if moved_px < STILL_PX and _ask_for_movement(conditions, num_frames):
        print(
            f"{name} stands still ({moved_px:g} px), and its camera or its actions do not: whether the model follows "
            "them, condition/right beside condition/shuffled says in its metrics (condition.probe_every_steps)",
            file=sys.stderr,
        )
    return moved_px


def _ask_for_movement(conditions: WindowConditions, num_frames: int) -> bool:
    """Whether a camera leaves its first pose, or an action is not zero."""
    camera, action = conditions.camera, conditions.action
    poses_T34 = None if camera is None else camera.extrinsics_T34(num_frames)
    return (poses_T34 is not None and bool(np.ptp(poses_T34, axis=0).max() > 0)) or (
        action is not None and any(action.values)
    )


def _facts(
    world: World, request: SampleRequest, fps: float, num_frames: int, clock: Clock, num_videos: int
) -> dict[str, Any]:
    """Return what each video's JSON says besides its seed; seconds are those of one video. Every rank calls it."""
    trained = world.require_trained()
    return {
        "prompt": request.prompt,
        "input": None if request.input_path is None else str(request.input_path),
        "fps": fps,
        "num_frames": num_frames,
        "conditions_drawn": request.draw_conditions,
        "checkpoint": str(trained.folder),
        "step": trained.step,
        "averaged_weights": trained.averaged,
        "adapters": list(request.adapters),
        "weights_digest": world.weights_digest(),
        "tokenizer_digest": world.require_codec().digest,
        "layout": world.mesh.layout,
        "conditioned_sec": round(clock.conditioned_sec, 3),
        "sampled_sec": round(clock.sampled_sec / num_videos, 3),
        "decoded_sec": round(clock.coded_sec / num_videos, 3),
        "sample": asdict(world.sampling),
    }


def _write(
    out: Path,
    request: SampleRequest,
    videos: dict[int, Tensor],
    conditions: Sequence[WindowConditions],
    fps: float,
    facts: dict[str, Any],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    named = dict[str, tuple[Tensor, dict[str, Any]]]()
    for number, future in enumerate(request.futures):
        video_3THW, steered = videos[number], conditions[number] if conditions else None
        if request.draw_conditions and steered is not None:
            video_3THW = draw_conditions(video_3THW, steered, fps=fps)
        named[future.name] = video_3THW, _written(future, steered)
        if steered is not None:
            named[future.name][1]["moved_px"] = tell_movement(future.name, videos[number], steered)
    if len(named) > 1:
        seeds = [future.seed for future in request.futures]
        named["grid"] = tile([video for video, _ in named.values()]), {"seeds": seeds}
    for name, (video_3THW, own) in named.items():
        write_mp4(out / f"{name}.mp4", video_3THW, fps=fps)
        (out / f"{name}.json").write_text(json.dumps(own | facts, indent=1))
        print(out / f"{name}.mp4")
