"""`cosmos-train sample RUN`: videos from a trained world model, each as NAME.mp4 beside a NAME.json that says how."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from cosmos_launch.media import read_first_frames, write_mp4
from cosmos_launch.progress import progress
from cosmos_launch.trained import frames_for, load_world, sample_config
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.world import Scene, sample_world


def sample(
    path: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    prompt: str,
    input_path: Path | None,
    seed: int,
    num_videos: int,
    fps: float | None,
) -> int:
    """Returns the exit code."""
    if num_videos < 1:
        raise ConfigError(f"--num-videos {num_videos} must be at least 1")
    if fps is not None and fps <= 0:
        raise ConfigError(f"--fps {fps} must be greater than 0")
    world = load_world(path)
    config = sample_config(world.run, overrides)
    given_BCTHW = None
    if input_path is not None:
        num_frames = frames_for(world, config.num_condition_frames)
        pixels_3THW = read_first_frames(input_path, num_frames, world.run.data)
        latents_1CTHW = world.encode(pixels_3THW[None])
        given_BCTHW = latents_1CTHW.new_zeros(num_videos, *world.store.latent_shape)
        given_BCTHW[:, :, : latents_1CTHW.shape[2]] = latents_1CTHW
    prompts = world.text.encode([prompt, config.negative_prompt])
    if prompts.dropped_B[0]:
        print(f"the prompt is cut by {int(prompts.dropped_B[0])} tokens to text.max_tokens={world.run.text.max_tokens}")
    prompt_SE, negative_SE = prompts.states_BSE
    if not config.negative_prompt:
        negative_SE = torch.zeros_like(negative_SE)  # what training puts in the place of dropped text
    window_fps = fps or world.store.windows[0].fps
    scene = Scene(
        text_BSE=prompt_SE.expand(num_videos, -1, -1),
        negative_text_BSE=negative_SE.expand(num_videos, -1, -1),
        fps_B=[window_fps] * num_videos,
        shape_CTHW=tuple(world.store.latent_shape),  # pyright: ignore[reportArgumentType] four numbers
        seed_B=list(range(seed, seed + num_videos)),
        given_BCTHW=given_BCTHW,
    )
    started = time.perf_counter()
    with progress("sample", "steps") as advance:
        latents_BCTHW = sample_world(
            world.network,
            scene,
            config,
            sigma_data=world.run.objective.sigma_data,
            has_condition_mask=world.run.model.condition_mask,
            on_step=lambda step: advance(step, config.num_steps),
        )
    sampled_sec = time.perf_counter() - started
    videos = world.decode(latents_BCTHW)
    decoded_sec = time.perf_counter() - started - sampled_sec
    out.mkdir(parents=True, exist_ok=True)
    for video_3THW, video_seed in zip(videos, scene.seed_B, strict=True):
        name = out / f"seed-{video_seed:04d}"
        write_mp4(name.with_suffix(".mp4"), video_3THW, fps=window_fps)
        facts = {
            "prompt": prompt,
            "input": None if input_path is None else str(input_path),
            "seed": video_seed,
            "fps": window_fps,
            "num_frames": video_3THW.shape[1],
            "checkpoint": str(world.checkpoint_folder),
            "step": world.step,
            "averaged_weights": world.averaged,
            "tokenizer_digest": world.store.metadata.tokenizer_digest,
            "sampled_sec": round(sampled_sec / num_videos, 3),
            "decoded_sec": round(decoded_sec / num_videos, 3),
            "sample": asdict(config),
        }
        name.with_suffix(".json").write_text(json.dumps(facts, indent=1))
        print(name.with_suffix(".mp4"))
    return 0
