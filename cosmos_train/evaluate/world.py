"""Does a world model know more of the future than that nothing changes?

Held-out windows are predicted from their first conditioning frames and compared with the truth: by the mean square of
whitened latents, or, of an autoregressive model, by the share of codes that are others. A prediction is what `sample`
makes of those frames, of the window's caption, camera path and actions, and of its number as the seed. The rival
repeats the last conditioning frame: its pixels, through the tokenizer, so that it has the latents that a video which
stands still really has. Conditioning frames do not count. Pixels are compared too, frame by frame: what the model's
latents decode to, and the repeated frame itself, with the video. Of an autoregressive model there is the perplexity as
well.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import choose_decoder
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.sample_plan.window_conditions import conditions_of
from cosmos_tok.config import NotFiniteError
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.evaluate.held_out import RegularWindow, regular_windows
from cosmos_train.evaluate.perplexity import perplexity
from cosmos_train.train.telling.progress import progress
from cosmos_train.worlds.autoregressive import AutoregressiveWorld
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.file import WorldFile
from cosmos_train.worlds.run import RunCheckpoint, require_sampling
from cosmos_train.worlds.world import Prompts, TrainedRun, WindowRequest, World

WINDOWS_AT_ONCE = 8
MODEL, RIVAL = "model", "repeat_last_frame"


def require_evaluation(found: RunCheckpoint | WorldFile, *, max_windows: int) -> None:
    """Raises ConfigError where a run can not be judged so, before anything of it is loaded."""
    run = found.run
    if run.sample.num_condition_frames < 1:
        raise ConfigError("sample.num_condition_frames=0 leaves no frame to predict from or to repeat; use 1 or more")
    if max_windows < 1:
        raise ConfigError(f"--max-windows {max_windows} must be at least 1")
    if isinstance(run, WorldDiTRun) and not run.model.condition_mask:
        raise ConfigError(
            f"{found.path} is of a Text2World model (model.condition_mask=false), which goes on from no given frames "
            "and so predicts no held-out window; evaluate a Video2World model"
        )
    require_sampling(run, num_videos=max_windows, num_frames=run.data.num_frames, has_input=True)


def evaluate(world: World, *, max_windows: int, judged_on: TrainedRun | None = None) -> dict[str, Any]:
    """Return what evaluation.json holds, of a run's model.

    Args:
        judged_on: the run whose held-out windows are predicted; the model's own by default.

    Raises:
        ConfigError, DataError: that run's manifest is another one, or a video can not be read.
        NotFiniteError: the model computes no numbers.
    """
    judged_on = judged_on or world.require_trained()
    comparison = _compare(world, regular_windows(judged_on, "heldout", max_windows), judged_on.run.data)
    facts = {"windows_of": str(judged_on.folder), **comparison.facts(world)}
    _require_finite(facts, comparison.measure)
    return facts


@dataclass(slots=True)
class Comparison:
    """What was found so far, of the model and of its rival."""

    measure: str
    """Of latents."""
    samples: list[Sample] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=lambda: {MODEL: [], RIVAL: []})
    """Of each window."""
    pixel_mse_BT: dict[str, list[Tensor]] = field(default_factory=lambda: {MODEL: [], RIVAL: []})
    """Of some windows at a time."""
    codes_BTHW: list[Tensor] = field(default_factory=list)
    """Of an autoregressive model: the truth, and beside it the text or action that cross-attention reads."""
    text_BSE: list[Tensor] = field(default_factory=list)

    @property
    def means(self) -> dict[str, float]:
        """Over all windows."""
        return {name: sum(values) / len(values) for name, values in self.errors.items()}

    def facts(self, world: World) -> dict[str, Any]:
        """What the JSON file says."""
        means, num_given = self.means, world.sampling.num_condition_frames
        found = {
            "checkpoint": str(world.path),
            "step": world.require_trained().step,
            "averaged_weights": world.require_trained().averaged,
            "num_windows": len(self.samples),
            "num_condition_frames": num_given,
            "measure": self.measure,
            self.measure: means,
            "ratio": means[MODEL] / means[RIVAL] if means[RIVAL] else None,
            "windows_won": sum(m < r for m, r in zip(*self.errors.values(), strict=True)),
            "pixel_mse_by_frame": {
                name: torch.cat(of_some).mean(dim=0)[world.frames_for(num_given) :].tolist()
                for name, of_some in self.pixel_mse_BT.items()
            },
            "windows": [
                {"clip_id": sample.clip.clip_id, "start_frame": sample.start_frame, MODEL: model, RIVAL: rival}
                for sample, model, rival in zip(self.samples, *self.errors.values(), strict=True)
            ],
            "sample": asdict(world.sampling),
        }
        if isinstance(world, AutoregressiveWorld):
            text_BSE = torch.cat(self.text_BSE) if self.text_BSE else None
            found["perplexity"] = perplexity(world, torch.cat(self.codes_BTHW), text_BSE)
        return found


def _compare(world: World, chosen: Sequence[RegularWindow], data: DataConfig) -> Comparison:
    """Compare predictions with the windows, which `data` says how to decode."""
    comparison = Comparison("code_error" if isinstance(world, AutoregressiveWorld) else "latent_mse")
    num_given = world.sampling.num_condition_frames
    clips = {window.sample.clip.clip_id: window.sample.clip for window in chosen}
    decoder = choose_decoder(data, [Manifest(clips.values())])
    with progress("evaluate", "windows") as advance:
        for start in range(0, len(chosen), WINDOWS_AT_ONCE):
            some = chosen[start : start + WINDOWS_AT_ONCE]
            samples = [window.sample for window in some]
            pixels = decoder.decode(samples)
            truth, prompts = world.encode(pixels), read_captions(world, some)
            request = _request(world, some, pixels, prompts)
            predicted, still = world.sample_window(request), _still(world, pixels, num_given)
            for name, guess, guess_B3THW in (
                (MODEL, predicted, world.decode(predicted)),
                (RIVAL, world.encode(still), still),
            ):
                comparison.errors[name] += _errors(world, guess, truth, num_given)
                comparison.pixel_mse_BT[name].append(_pixel_errors(guess_B3THW, pixels))
            comparison.samples += samples
            if isinstance(world, AutoregressiveWorld):
                comparison.codes_BTHW.append(truth)
                read_BSE = world.read_by_cross_attention(request)
                comparison.text_BSE += [] if read_BSE is None else [read_BSE]
            advance(len(comparison.samples), len(chosen))
    return comparison


def _require_finite(facts: dict[str, Any], measure: str) -> None:
    """NotFiniteError where the model was found to compute no numbers."""
    for name in (measure, "perplexity"):
        for whose, value in facts.get(name, {}).items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"{facts['checkpoint']}: {name} of {whose} is {value}, so its weights or the latents are broken; "
                    "take a checkpoint of an earlier step"
                )


def read_captions(world: World, windows: Sequence[RegularWindow]) -> Prompts | None:
    """Return what the model wants to know of the windows' captions."""
    return world.read_prompts({f"caption of window {window.number}": window.caption for window in windows})


def predict(world: World, windows: Sequence[RegularWindow], pixels_B3THW: Tensor, prompts: Prompts | None) -> Tensor:
    """Return the latents that `sample` makes of each window's first frames and conditions, its seed the window's
    number."""
    return world.sample_window(_request(world, windows, pixels_B3THW, prompts))


def _request(
    world: World, windows: Sequence[RegularWindow], pixels_B3THW: Tensor, prompts: Prompts | None
) -> WindowRequest:
    first_frames = world.frames_for(world.sampling.num_condition_frames)
    return WindowRequest(
        prompts=prompts,
        seeds=[window.number for window in windows],
        fps_B=[window.sample.fps for window in windows],
        num_latent_frames=world.require_windows().latent_shape[1],
        conditions=[] if world.conditioner is None else [conditions_of(window.sample) for window in windows],
        given=world.encode(pixels_B3THW[:, :, :first_frames]),
    )


def _still(world: World, pixels_B3THW: Tensor, num_given: int) -> Tensor:
    """The windows as if the last conditioning frame stayed."""
    last = world.frames_for(num_given)
    still = pixels_B3THW.clone()
    still[:, :, last:] = pixels_B3THW[:, :, last - 1 : last]
    return still


def _pixel_errors(guess_B3THW: Tensor, truth_B3THW: Tensor) -> Tensor:
    """Mean squared difference of each frame [B, T], of pixels from 0 to 1."""
    return ((guess_B3THW.float() - truth_B3THW.float()) / 255).square().mean(dim=(1, 3, 4))


def _errors(world: World, guess: Tensor, truth: Tensor, num_given: int) -> list[float]:
    """Of each window, behind its conditioning frames: mean squared difference of latents, share of wrong codes."""
    if isinstance(world, AutoregressiveWorld):
        return (guess != truth)[:, num_given:].float().mean(dim=(1, 2, 3)).tolist()
    assert isinstance(world, DiffusionWorld)
    difference = (guess - truth)[:, :, num_given:] / world.objective.sigma_data
    return difference.square().mean(dim=(1, 2, 3, 4)).tolist()
