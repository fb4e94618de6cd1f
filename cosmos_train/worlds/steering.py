"""Finds what steers a model, as its checkpoint says it or as it was given for a file, before any weights are loaded."""

from dataclasses import replace
from pathlib import Path

from cosmos_tok.store import load_config
from cosmos_train.conditions.action_statistics import ACTIONS, Embodiments
from cosmos_train.conditions.actions import steps_per_frame
from cosmos_train.conditions.conditioner import Conditioner, Reads, reads_of
from cosmos_train.conditions.config import (
    ACTION_KEYS,
    CAMERA_KEYS,
    ActionConditionConfig,
    ConditionConfig,
    refuse_without_effect,
)
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.source import WorldSource, find_action_statistics
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.windows.kept import trained_with
from cosmos_train.windows.steering import read_embodiments
from cosmos_train.worlds.run import RunCheckpoint


def conditioner_of_checkpoint(found: RunCheckpoint) -> Conditioner | None:
    """Return what makes the tensors that the model reads besides latents and text; None where it reads none.

    Raises:
        ConfigError: the checkpoint does not say what its actions are normalised with.
        TokenizerError: the tokenizer can not be read.
    """
    run = found.run
    if not reads_of(run.model).names:
        return None
    embodiments = read_embodiments(found.folder)
    if reads_of(run.model).action and embodiments is None:
        raise ConfigError(
            f"{found.folder} is of a model that reads actions, and its {ACTIONS} is missing, which says what they are "
            "normalised with; copy the whole checkpoint again"
        )
    rate = load_config(run.latents.tokenizer).temporal_rate
    origin, _ = trained_with(found.folder, run)
    return Conditioner(run.condition, run.model, embodiments, temporal_rate=rate, fps=origin.fps)


def conditioner_of_file(
    source: WorldSource,
    condition: ActionConditionConfig,
    embodiments: Embodiments | Path | str | None,
    *,
    temporal_rate: int,
    fps: float | None,
    num_latent_frames: int | None,
) -> tuple[WorldSource, Conditioner]:
    """Return what makes the tensors that a file's model reads, and the file with what the former tells of it.

    An official file does not say whether its actions are of the next frame or of each latent frame. Where it has the
    width of all steps of a latent frame, several, it is of each.

    Args:
        condition: how its conditions are read, as section `condition` of a run has it.
        embodiments: what its actions are normalised with, or the file that says so; that beside the weights by default.
        temporal_rate: pixel frames of a latent frame.
        fps: frames per second of the windows that it was trained on, where that is known.
        num_latent_frames: latent frames of one of them, likewise.

    Raises:
        ConfigError: file, condition and embodiments contradict each other, or one of them is missing.
    """
    config, where = source.config, source.path
    reads = reads_of(config)
    if not reads.names:
        raise ConfigError(
            f"condition={condition} says how a camera's path or actions are read, and {where} reads neither "
            f"({_inputs(config)}); leave it out, or name a model that is steered"
        )
    if isinstance(config, WorldARConfig) and isinstance(condition, ConditionConfig):
        raise ConfigError(
            f"condition={condition} is a diffusion model's, and {where} is autoregressive; give an "
            f"ActionConditionConfig, with {' and '.join(ACTION_KEYS)}"
        )
    try:
        refuse_without_effect(condition, reads_camera=reads.camera, reads_action=reads.action)
        found = _embodiments_of_file(where, condition, embodiments, reads)
        if found is not None:
            source = _with_action_frames(source, found, temporal_rate, fps)
        conditioner = Conditioner(condition, source.config, found, temporal_rate=temporal_rate, fps=fps)
        conditioner.check_width()
        if num_latent_frames is not None:
            conditioner.check_frames(num_latent_frames)
    except ConfigError as error:
        raise ConfigError(f"{where}, which reads {what_is_read(config)}: {error}") from error
    return source, conditioner


def what_is_read(config: DiTConfig | WorldARConfig) -> str:
    """Return what steers a network, in words; empty where nothing does."""
    reads = reads_of(config)
    parts = [f"a camera's path ({_inputs(config)})"] if reads.camera else []
    if reads.action:
        frames = "the one next frame" if reads.action_frames == "next" else "each latent frame"
        parts.append(f"actions ({reads.action_width} numbers of {frames})")
    return " and ".join(parts)


def unsaid(path: Path, config: DiTConfig | WorldARConfig) -> str:
    """Return the sentence of a file whose model is steered and of which nobody says how."""
    reads = reads_of(config)
    keys = [*CAMERA_KEYS] if reads.camera else []
    keys += ACTION_KEYS if reads.action else []
    statistics = f", and {ACTIONS} beside the weights" if reads.action else ""
    return (
        f"{path} reads {what_is_read(config)}, and no tensor tells how: that is section condition of a run "
        f"({', '.join(keys)}){statistics}"
    )


def _inputs(config: DiTConfig | WorldARConfig) -> str:
    if isinstance(config, WorldARConfig):
        return "codes alone" if not config.cross_attention else "codes and text"
    return f"{config.in_channels} input channels, {config.extra_channels} of them beside latents and masks"


def _embodiments_of_file(
    where: Path, condition: ActionConditionConfig, given: Embodiments | Path | str | None, reads: Reads
) -> Embodiments | None:
    """Return the statistics of the actions; None of a model that reads none."""
    if not reads.action:
        if given is not None:
            raise ConfigError("embodiments are given, which are of actions, and it reads none; leave them out")
        return None
    if isinstance(given, Embodiments):
        found, place = given, "embodiments"
    else:
        path = find_action_statistics(where) if given is None else Path(given)
        if path is None or not path.is_file():
            raise ConfigError(
                f"{ACTIONS} is missing, which says what its actions are and what they are normalised with; put it "
                "beside the weights, or name it (embodiments=PATH)"
            )
        found, place = Embodiments.from_json(path.read_text(encoding="utf-8"), str(path)), str(path)
    names = condition.embodiments if isinstance(condition, ConditionConfig) else ()
    if names and list(names) != list(found.statistics):
        raise ConfigError(f"condition.embodiments={list(names)}, and {place} has {list(found.statistics)}; set that")
    for name, one in found.statistics.items():
        for key, value in (("action_normalize", one.normalize), ("action_scale", one.scale)):
            if getattr(condition, key) != value:
                raise ConfigError(
                    f"condition.{key}={getattr(condition, key)}, and {place} has {value} of embodiment {name!r}; set "
                    "that"
                )
    return found


def _with_action_frames(
    source: WorldSource, embodiments: Embodiments, temporal_rate: int, fps: float | None
) -> WorldSource:
    """Return the file as one of actions of each latent frame, where its width says so and nothing else does."""
    [one, *others] = embodiments.statistics.values()
    per_frame = one.steps_per_frame
    if per_frame is None and fps is not None:
        per_frame = steps_per_frame(one.rate_hz, fps)
    if others or per_frame is None or "action_frames" not in source.untold:
        return source
    config, steps = source.require_dit(), per_frame * temporal_rate
    if steps == 1 or config.action_width != steps * len(one.names):
        return source
    note = (
        f"its {config.action_width} numbers of actions are {steps} steps of {len(one.names)} dimensions; took those of "
        "each latent frame"
    )
    kept = tuple(field for field in source.untold if field != "action_frames")
    config = replace(config, action_frames="each")
    return replace(source, config=config, notes=[*source.notes, note], untold=kept)
