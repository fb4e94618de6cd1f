"""`cosmos-train evaluate world RUN`: does the world model know more of the future than that nothing changes?

Held-out windows are predicted from their first conditioning frames and compared with the truth: by the mean square of
whitened latents, or, of an autoregressive model, by the share of codes that are others. The rival repeats the last
conditioning frame: its pixels, through the tokenizer, so that it has the latents that a video which stands still really
has. Conditioning frames do not count. Pixels are compared too, frame by frame: what the model's latents decode to, and
the repeated frame itself, with the video. Of an autoregressive model there is the perplexity as well.
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
from cosmos_launch.perplexity import perplexity
from cosmos_launch.progress import progress
from cosmos_launch.trained import TrainedWorld, open_run
from cosmos_launch.trained_ar import CodeWorld, load_ar
from cosmos_launch.trained_dit import DiffusionWorld, load_dit
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun
from cosmos_train.generate.codes import CodeScene
from cosmos_train.generate.world import Scene
from cosmos_train.recipes.world_batches import pad_text

WINDOWS_AT_ONCE = 8


def evaluate(path: Path, overrides: Sequence[str], *, out: Path, max_windows: int) -> int:
    """Write the result as JSON and print it. Returns the exit code."""
    folder, run = open_run(path, overrides)
    num_given = run.sample.num_condition_frames
    if num_given < 1:
        raise ConfigError("sample.num_condition_frames=0 leaves no frame to predict from or to repeat; use 1 or more")
    world = load_ar(folder, run) if isinstance(run, WorldARRun) else load_dit(folder, run)
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
            truth = world.encode(pixels[some])
            predicted = _predict(world, chosen[some], truth)
            still = _still(world, pixels[some], num_given)
            for name, guess, guess_B3THW in (
                ("model", predicted, world.decode(predicted)),
                ("repeat_last_frame", world.encode(still), still),
            ):
                errors[name] += _errors(world, guess, truth, num_given)
                of_pixels[name].append(_pixel_errors(guess_B3THW, pixels[some]))
            advance(min(start + WINDOWS_AT_ONCE, len(chosen)), len(chosen))
    means = {name: sum(values) / len(values) for name, values in errors.items()}
    ratio = means["model"] / means["repeat_last_frame"] if means["repeat_last_frame"] else None
    measure = "code_error" if isinstance(world, CodeWorld) else "latent_mse"
    wins = sum(m < r for m, r in zip(errors["model"], errors["repeat_last_frame"], strict=True))
    result = {
        "checkpoint": str(world.checkpoint_folder),
        "step": world.step,
        "num_windows": len(chosen),
        "num_condition_frames": num_given,
        measure: means,
        "ratio": ratio,
        "windows_won": wins,
        "pixel_mse_by_frame": {
            name: torch.cat(of_batches).mean(dim=0)[world.frames_for(num_given) :].tolist()
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
        "sample": asdict(run.sample),
    }
    if isinstance(world, CodeWorld):
        result["perplexity"] = perplexity(world, chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1))
    print(
        f"{len(chosen)} held-out windows: {measure} {means['model']:.4f}, repeating the last frame "
        f"{means['repeat_last_frame']:.4f}, ratio {'none' if ratio is None else f'{ratio:.3f}'}; "
        f"better on {wins} -> {out}"
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


def _predict(world: TrainedWorld, chosen: Sequence[int], truth: Tensor) -> Tensor:
    """One sample for each window, its seed the window's number."""
    windows = [world.store.window(k) for k in chosen]
    text_BSE = torch.stack([pad_text(window["text_SE"], world.run.text.max_tokens) for window in windows])
    text_BSE = text_BSE.to(world.device, world.dtype)
    if isinstance(world, CodeWorld):
        _, frames, height, width = world.store.latent_shape
        text = text_BSE if world.run.model.cross_attention else None
        return world.sample(
            CodeScene(grid_THW=(frames, height, width), seed_B=list(chosen), given_BTHW=truth, text_BSE=text)
        )
    assert isinstance(world, DiffusionWorld)
    scene = Scene(
        text_BSE=text_BSE,
        negative_text_BSE=torch.zeros_like(text_BSE[:1]),
        fps_B=[window["fps"] for window in windows],
        shape_CTHW=tuple(world.store.latent_shape),  # pyright: ignore[reportArgumentType] four numbers
        seed_B=list(chosen),
        given_BCTHW=truth,
    )
    return world.sample(scene)


def _still(world: TrainedWorld, pixels_B3THW: Tensor, num_given: int) -> Tensor:
    """The windows as if the last conditioning frame stayed."""
    last = world.frames_for(num_given)
    still = pixels_B3THW.clone()
    still[:, :, last:] = pixels_B3THW[:, :, last - 1 : last]
    return still


def _pixel_errors(guess_B3THW: Tensor, truth_B3THW: Tensor) -> Tensor:
    """Mean squared difference of each frame [B, T], of pixels from 0 to 1."""
    return ((guess_B3THW.float() - truth_B3THW.float()) / 255).square().mean(dim=(1, 3, 4))


def _errors(world: TrainedWorld, guess: Tensor, truth: Tensor, num_given: int) -> list[float]:
    """Of each window, behind its conditioning frames: mean squared difference of latents, share of wrong codes."""
    if isinstance(world, CodeWorld):
        return (guess != truth)[:, num_given:].float().mean(dim=(1, 2, 3)).tolist()
    assert isinstance(world, DiffusionWorld)
    difference = (guess - truth)[:, :, num_given:] / world.run.objective.sigma_data
    return difference.square().mean(dim=(1, 2, 3, 4)).tolist()
