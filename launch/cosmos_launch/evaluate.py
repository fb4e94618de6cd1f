"""`cosmos-train evaluate world RUN`: does the world model know more of the future than that nothing changes?

Held-out windows are predicted from their first conditioning frames and compared, as whitened latents, with the truth.
The rival repeats the last conditioning frame: its pixels, through the tokenizer, so that it has the latents that a
video which stands still really has. Conditioning frames do not count. Pixels are compared too, frame by frame: what the
model's latents decode to, and the repeated frame itself, with the video.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from cosmos_data.decode import choose_decoder
from cosmos_data.manifest import Manifest
from cosmos_data.plan import Sample, cover_windows
from cosmos_launch.progress import progress
from cosmos_launch.trained import TrainedWorld, frames_for, load_world, open_run
from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.world import Scene
from cosmos_train.recipes.world_batches import pad_text

WINDOWS_AT_ONCE = 8


def evaluate(path: Path, overrides: Sequence[str], *, out: Path, max_windows: int) -> int:
    """Write the result as JSON and print it. Returns the exit code."""
    folder, run = open_run(path, overrides)
    config = run.sample
    if config.num_condition_frames < 1:
        raise ConfigError("sample.num_condition_frames=0 leaves no frame to predict from or to repeat; use 1 or more")
    world = load_world(folder, run)
    held_out = world.store.indices("heldout")
    if not held_out:
        raise ConfigError(f"{world.store.folder} has no held-out windows; build the manifest with --heldout-every")
    chosen = held_out[:: max(1, len(held_out) // max_windows)][:max_windows]
    pixels = _pixels_of(world, chosen)
    errors: dict[str, list[float]] = {"model": [], "repeat_last_frame": []}
    of_pixels: dict[str, list[Tensor]] = {name: [] for name in errors}
    with progress("evaluate", "windows") as advance:
        for start in range(0, len(chosen), WINDOWS_AT_ONCE):
            some = slice(start, start + WINDOWS_AT_ONCE)
            truth_BCTHW = world.encode(pixels[some])
            predicted_BCTHW = _predict(world, chosen[some], truth_BCTHW)
            still = _still(world, pixels[some], config)
            for name, guess_BCTHW, guess_B3THW in (
                ("model", predicted_BCTHW, world.decode(predicted_BCTHW)),
                ("repeat_last_frame", world.encode(still), still),
            ):
                errors[name] += _errors(world, guess_BCTHW, truth_BCTHW, config.num_condition_frames)
                of_pixels[name].append(_pixel_errors(guess_B3THW, pixels[some]))
            advance(min(start + WINDOWS_AT_ONCE, len(chosen)), len(chosen))
    means = {name: sum(values) / len(values) for name, values in errors.items()}
    wins = sum(m < r for m, r in zip(errors["model"], errors["repeat_last_frame"], strict=True))
    result = {
        "checkpoint": str(world.checkpoint_folder),
        "step": world.step,
        "num_windows": len(chosen),
        "num_condition_frames": config.num_condition_frames,
        "latent_mse": means,
        "ratio": means["model"] / means["repeat_last_frame"],
        "windows_won": wins,
        "pixel_mse_by_frame": {
            name: torch.cat(of_batches).mean(dim=0)[frames_for(world, config.num_condition_frames) :].tolist()
            for name, of_batches in of_pixels.items()
        },
        "windows": [
            {"clip_id": world.store.windows[k].clip_id, "start_frame": world.store.windows[k].start_frame, **of_window}
            for k, of_window in zip(
                chosen,
                (dict(zip(errors, pair, strict=True)) for pair in zip(*errors.values(), strict=True)),
                strict=True,
            )
        ],
        "sample": asdict(config),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    print(
        f"{len(chosen)} held-out windows: latent MSE {means['model']:.4f}, repeating the last frame "
        f"{means['repeat_last_frame']:.4f}, ratio {result['ratio']:.3f}; better on {wins} -> {out}"
    )
    return 0


def _pixels_of(world: TrainedWorld, chosen: Sequence[int]) -> Tensor:
    """The windows' frames, decoded again: uint8 [N, 3, T, H, W]."""
    manifest = Manifest.read(world.run.data.manifest)
    world.store.require(manifest_digest=manifest.digest)
    hop_frames = world.run.latents.hop_frames
    by_place: dict[tuple[str, int], Sample] = {
        (sample.clip.clip_id, sample.start_frame): sample
        for sample in cover_windows(manifest, world.run.data, hop_frames=hop_frames)
    }
    windows = [world.store.windows[k] for k in chosen]
    samples = [by_place[window.clip_id, window.start_frame] for window in windows]
    return choose_decoder(world.run.data, manifest).decode(samples)


def _predict(world: TrainedWorld, chosen: Sequence[int], truth_BCTHW: Tensor) -> Tensor:
    """One sample for each window, its seed the window's number."""
    windows = [world.store.window(k) for k in chosen]
    text_BSE = torch.stack([pad_text(window["text_SE"], world.run.text.max_tokens) for window in windows])
    scene = Scene(
        text_BSE=text_BSE.to(world.device, world.dtype),
        negative_text_BSE=torch.zeros_like(text_BSE[:1]).to(world.device, world.dtype),
        fps_B=[window["fps"] for window in windows],
        shape_CTHW=tuple(world.store.latent_shape),  # pyright: ignore[reportArgumentType] four numbers
        seed_B=list(chosen),
        given_BCTHW=truth_BCTHW,
    )
    return world.sample(scene)


def _still(world: TrainedWorld, pixels_B3THW: Tensor, config: SampleConfig) -> Tensor:
    """The windows as if the last conditioning frame stayed."""
    last = frames_for(world, config.num_condition_frames)
    still = pixels_B3THW.clone()
    still[:, :, last:] = pixels_B3THW[:, :, last - 1 : last]
    return still


def _pixel_errors(guess_B3THW: Tensor, truth_B3THW: Tensor) -> Tensor:
    """Mean squared difference of each frame [B, T], of pixels from 0 to 1."""
    return ((guess_B3THW.float() - truth_B3THW.float()) / 255).square().mean(dim=(1, 3, 4))


def _errors(world: TrainedWorld, guess_BCTHW: Tensor, truth_BCTHW: Tensor, num_condition_frames: int) -> list[float]:
    """Mean squared difference of the whitened latents of each window, behind its conditioning frames."""
    difference = (guess_BCTHW - truth_BCTHW)[:, :, num_condition_frames:] / world.run.objective.sigma_data
    return difference.square().mean(dim=(1, 2, 3, 4)).tolist()
