"""A world model's file, of no run of ours, with what it does not say: all that can be checked before its weights.

parts       single arguments of open_world
a run       the configuration of a run that describes it, as `sample FILE --config RUN.yaml` has it (find_file)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import torch

from cosmos_tok.whitening import LatentStatistics, load_statistics
from cosmos_train.conditions.action_statistics import Embodiments
from cosmos_train.conditions.conditioner import Conditioner, reads_of
from cosmos_train.conditions.config import ActionConditionConfig
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run, said_values
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.interop.adapter_files import AdapterFile
from cosmos_train.interop.source import WorldSource, open_source
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.text.config import TextConfig
from cosmos_train.train.checkpoint.folder import find_checkpoint
from cosmos_train.windows.kept import STATISTICS, read_kept
from cosmos_train.worlds.codec import Codec, read_codec, require_fit
from cosmos_train.worlds.run import WHOLE, RunCheckpoint, find_run
from cosmos_train.worlds.steering import conditioner_of_file, unsaid
from cosmos_train.worlds.world import TrainedWindows


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSize:
    """The windows that a model of no run of ours was trained on."""

    num_frames: int
    height_px: int
    width_px: int
    fps: float


class FileParts(TypedDict, total=False):
    """A file may be given these, which a run has itself. Each may be None, too, which is as if it were left out."""

    arguments: Mapping[str, Any] | None
    """The official constructor was called with them; they tell what an official file's tensors do not."""
    weights: str | None
    """network or ema, for what holds both; network by default."""
    dtype: torch.dtype | None
    """Number format of the network, torch.float32 by default; the learned uncertainty stays in fp32."""
    objective: EdmConfig | None
    """sigma_data and loss_scale; the defaults are the released ones."""
    tokenizer: Path | str | None
    """Folder or file of any layout; the vae of a diffusers pipeline by default."""
    statistics: LatentStatistics | None
    """They whiten latents; those beside the tokenizer do by default."""
    text_encoder: TextConfig | None
    """The encoder that the model was trained with."""
    window: WindowSize | None
    """The size of the windows that it was trained on."""
    condition: ActionConditionConfig | None
    """How it reads a camera's path and actions, as section `condition` of a run has it: a ConditionConfig, or of an
    autoregressive model an ActionConditionConfig."""
    embodiments: Embodiments | Path | str | None
    """They say what its actions are and normalise them, or name a file that does; by default that is the
    action_statistics.json beside the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """A file and its parts, which belong together. No weight of the network has been read."""

    source: WorldSource
    codec: Codec | None
    """On the CPU."""
    windows: TrainedWindows | None
    conditioner: Conditioner | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldFile:
    """A file, and the configuration of a run that describes it."""

    path: Path
    run: WorldDiTRun | WorldARRun
    """Its section model is the file's."""
    found: FoundFile
    fps: float
    """Frames per second of its windows."""


def find_parts(path: Path, parts: FileParts, adapters: Sequence[AdapterFile] = ()) -> FoundFile:
    """Open a file as far as its names and shapes, and the tokenizer, and compare them with what was given.

    Raises:
        CheckpointError, ConfigError, TokenizerError: there is no world model, something is missing, or something does
            not belong together.
    """
    weights = parts.get("weights") or "network"
    return _found(open_source(path, parts.get("arguments"), weights=weights, adapters=adapters), parts)


def find_file(
    path: Path,
    config: str,
    overrides: Sequence[str] = (),
    *,
    fps: float | None = None,
    adapters: Sequence[AdapterFile] = (),
) -> WorldFile:
    """Open a file as far as its names and shapes, and the tokenizer, with the configuration of a run that describes it.

    Args:
        config: a run's YAML. What it does not say of section model is as the file has it.
        overrides: key=value of any key.
        fps: frames per second of the windows that it was trained on, where data.target_fps does not say them.
        adapters: are added to its matrices.

    Raises:
        CheckpointError, ConfigError, TokenizerError: as find_parts does, or the configuration contradicts the file.
    """
    source, said = open_source(path, adapters=adapters), said_values(config, overrides)
    run = _run_of(source, config, overrides)
    source = _as_said(source, run, said, config)
    fps = run.data.target_fps or fps
    if fps is None:
        raise ConfigError(f"what rate {path} was trained at is not said; give --fps, or data.target_fps")
    is_steered = bool(reads_of(source.config).names)
    if is_steered and "condition" not in said:
        raise ConfigError(f"{unsaid(path, source.config)}; say condition.key=value, or in {config}")
    data = run.data
    parts: FileParts = {
        "tokenizer": run.latents.tokenizer,
        "statistics": _statistics_of(run, config),
        "window": WindowSize(num_frames=data.num_frames, height_px=data.height_px, width_px=data.width_px, fps=fps),
        "condition": run.condition if is_steered else None,  # a run's own YAML says it in any case
    }
    found = _found(source, parts)
    return WorldFile(path=path, run=replace(run, model=found.source.config), found=found, fps=fps)


def find_world(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    config: str | None = None,
    fps: float | None = None,
    adapters: Sequence[AdapterFile] = (),
) -> RunCheckpoint | WorldFile:
    """Find a run's checkpoint, or a file that the configuration of a run describes.

    Raises:
        CheckpointError, ConfigError, TokenizerError: as find_run and find_file do, or a configuration is given of a
            run, or none of a file.
    """
    if config is None:
        if path.is_file():
            raise ConfigError(
                f"{path} is a file, of no run of ours, and does not say what it was trained with; name the YAML of a "
                "run that does with --config, such as run/posttrain/camera_7b"
            )
        return find_run(path, overrides, adapters=adapters)
    if find_checkpoint(path) is not None:
        raise ConfigError(f"--config {config} describes a file, and {path} is a run, which has its own; leave it out")
    return find_file(path, config, overrides, fps=fps, adapters=adapters)


def _found(source: WorldSource, parts: FileParts) -> FoundFile:
    path, size = source.path, parts.get("window")
    codec = _codec_of(source, parts.get("tokenizer"), parts.get("statistics"))
    windows = None if size is None else _windows(path, size, codec)
    condition, embodiments = parts.get("condition"), parts.get("embodiments")
    notes, conditioner = list[str](), None
    if condition is not None:
        if codec is None:
            raise ConfigError(
                f"{path} came without a tokenizer, which tells the frames that a latent frame's camera and actions are "
                "of; pass tokenizer=PATH, too"
            )
        source, conditioner = conditioner_of_file(
            source,
            condition,
            embodiments,
            temporal_rate=codec.config.temporal_rate,
            fps=None if size is None else size.fps,
            num_latent_frames=None if windows is None else windows.latent_shape[1],
        )
    elif embodiments is not None:
        raise ConfigError(
            f"embodiments={embodiments} says what actions are, and not how {path} reads them; pass condition=, too"
        )
    elif reads_of(source.config).names:
        notes.append(unsaid(path, source.config))
    return FoundFile(
        source=source, codec=codec, windows=windows, conditioner=conditioner, notes=(*source.notes, *notes)
    )


def _run_of(source: WorldSource, config: str, overrides: Sequence[str]) -> WorldDiTRun | WorldARRun:
    """Return the run that a YAML describes, whose section model is the file's where the YAML is silent."""
    wanted = "world_dit" if isinstance(source.config, DiTConfig) else "world_ar"
    recipe = said_values(config, overrides).get("recipe")
    if recipe != wanted:
        raise ConfigError(f"{config} has recipe={recipe}, and {source.path} is of {wanted}; name a run of that recipe")
    run = load_run(config, [*WHOLE, *overrides], standing={"model": asdict(source.config)})
    assert isinstance(run, WorldDiTRun | WorldARRun)
    return run


def _as_said(source: WorldSource, run: WorldDiTRun | WorldARRun, said: Mapping[str, Any], config: str) -> WorldSource:
    """Return the file with what the configuration says of it that nothing at the path tells.

    Raises:
        ConfigError: the configuration says something else than the file.
    """
    is_said = set(said.get("model") or {})
    told = {field: getattr(run.model, field) for field in source.untold}
    model = replace(source.config, **told)
    for field in fields(model):
        ours, theirs = getattr(run.model, field.name), getattr(model, field.name)
        if ours != theirs:
            raise ConfigError(
                f"{config} says model.{field.name}={ours}, and {source.path} has {theirs}; leave it out, or name "
                "another file"
            )
    return replace(source, config=model, untold=tuple(field for field in source.untold if field not in is_said))


def _statistics_of(run: WorldDiTRun | WorldARRun, config: str) -> LatentStatistics | None:
    """Return what the run whose own YAML this is keeps, or else what lies in the latent cache; None where nothing does,
    so that those beside the tokenizer count."""
    folder = Path(config).parent
    kept = read_kept(folder) or read_kept(folder.parent.parent)  # run.yaml lies in the run and in its checkpoints
    if kept is not None:
        return kept.statistics.get("video")
    path = Path(run.latents.folder) / STATISTICS
    return load_statistics(path) if path.is_file() else None


def _codec_of(source: WorldSource, tokenizer: Path | str | None, statistics: LatentStatistics | None) -> Codec | None:
    """Return the tokenizer that was named, or that of the diffusers pipeline that the network lies in."""
    vae = source.path.parent / "vae"
    if tokenizer is None and source.layout == "diffusers" and source.path.name == "transformer" and vae.is_dir():
        tokenizer = vae
    if tokenizer is None:
        return None
    codec = read_codec(Path(tokenizer), statistics)
    require_fit(codec, source.config, Path(tokenizer))
    return codec


def _windows(path: Path, size: WindowSize, codec: Codec | None) -> TrainedWindows:
    if codec is None:
        raise ConfigError(f"{path} came without a tokenizer, which makes latents of a window; pass tokenizer=PATH, too")
    config = codec.config
    channels = config.latent_channels if config.kind == "continuous" else 1
    size_HW = config.latent_size(size.height_px, size.width_px)
    return TrainedWindows(latent_shape=(channels, config.latent_frames(size.num_frames), *size_HW), fps=size.fps)
