"""The way in: `open_world` makes one object of a world model, wherever its weights lie.

a run, or one of its checkpoints    all that it was trained with comes along, on any layout of ranks
any other file or folder            see interop.source; what is no part of it is given by name. In one process
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.generate.config import CodeSampleConfig, SampleConfig
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.source import WorldSource, open_source
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.recipes.world_ar import check_codec
from cosmos_train.text.cache import load_text_encoder
from cosmos_train.text.config import TextConfig
from cosmos_train.train.checkpoint.folder import find_checkpoint, read_progress
from cosmos_train.train.checkpoint.load import WEIGHTS, has_average, load_weights
from cosmos_train.train.checkpoint.verify import require_whole
from cosmos_train.windows.filled import latent_shape
from cosmos_train.windows.kept import trained_with
from cosmos_train.windows.stream import Origin
from cosmos_train.worlds.autoregressive import AutoregressiveWorld
from cosmos_train.worlds.codec import Codec, codec_of_run, read_codec, require_fit
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.run import RunCheckpoint, find_run
from cosmos_train.worlds.steering import conditioner_of_checkpoint
from cosmos_train.worlds.world import TrainedRun, TrainedWindows


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSize:
    """The windows that a model of no run of ours was trained on."""

    num_frames: int
    height_px: int
    width_px: int
    fps: float


def open_world(
    path: Path | str | RunCheckpoint,
    overrides: Sequence[str] = (),
    *,
    arguments: Mapping[str, Any] | None = None,
    weights: str | None = None,
    dtype: torch.dtype | None = None,
    objective: EdmConfig | None = None,
    tokenizer: Path | str | None = None,
    statistics: LatentStatistics | None = None,
    text_encoder: TextConfig | None = None,
    window: WindowSize | None = None,
) -> DiffusionWorld | AutoregressiveWorld:
    """Open the world model at a path; nothing is written.

    The process is another one afterwards. torch.distributed and megatron-core have groups, of this process alone unless
    the environment names more, until cosmos_train.parallel.init.stop(), after which the model still computes. Where
    there is no GPU, some functions of torch.cuda and of megatron-core have been replaced for the rest of the process,
    and "cuda" means the CPU (cosmos_train.parallel.cpu). Importing this module does none of that.

    Args:
        path: a run, one of its checkpoints, or another file or folder; a RunCheckpoint where it was looked at before.
        overrides: of a run: sample.key=value and parallel.key=value. A RunCheckpoint has taken them already. The other
            arguments are refused for runs, which have it all: the moving average of their weights, where they kept one,
            in the number format of the training.
        arguments: of the official constructor, for what an official file's tensors do not tell.
        weights: network or ema, for what holds both; network by default.
        dtype: number format of the network, torch.float32 by default; the learned uncertainty stays in fp32.
        objective: sigma_data and loss_scale; the defaults are the released ones.
        tokenizer: folder or file of any layout; the vae of a diffusers pipeline by default.
        statistics: what latents are whitened with; those beside the tokenizer by default.
        text_encoder: the encoder that the model was trained with.
        window: the size of the windows that it was trained on.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: there is no world model, it is damaged, or something is
            missing, does not belong together, or is not for what lies at the path.
    """
    for_files = {
        "arguments": arguments,
        "weights": weights,
        "dtype": dtype,
        "objective": objective,
        "tokenizer": tokenizer,
        "statistics": statistics,
        "text_encoder": text_encoder,
        "window": window,
    }
    if isinstance(path, RunCheckpoint):
        if overrides:
            raise ConfigError(f"{path.folder} has been found already; give find_run the override {overrides[0]!r}")
        _require_none(path.folder, for_files)
        return _load_run(path)
    path = Path(path)
    if _is_run(path) or (overrides and not path.is_file()):
        found = find_run(path, overrides)
        _require_none(path, for_files)
        return _load_run(found)
    if overrides:
        raise ConfigError(f"{path} is no run of ours, and only a run has settings to override; got {overrides[0]!r}")
    dtype = dtype or torch.float32
    source, parallel = open_source(path, arguments, weights=weights or "network"), ParallelConfig()
    mesh = init.start(parallel, seed=0)
    if isinstance(source.config, DiTConfig):
        world = DiffusionWorld.build(
            source.config,
            parallel,
            mesh,
            path=path,
            dtype=dtype,
            seed=0,
            learned_uncertainty=source.learned_uncertainty,
            objective=objective or EdmConfig(),
            sampling=SampleConfig(),
        )
    else:
        sampling = CodeSampleConfig()
        world = AutoregressiveWorld.build(
            source.config, parallel, mesh, path=path, dtype=dtype, seed=0, sampling=sampling
        )
    codec = _codec_beside(source, tokenizer, statistics, mesh.device)
    load_pieces(source, world.pieces, mesh)
    _freeze(world.pieces)
    return replace(
        world,
        codec=codec,
        text=None if text_encoder is None else load_text_encoder(text_encoder, mesh.device),
        windows=None if window is None else _windows(path, window, codec),
        notes=tuple(source.notes),
    )


def _is_run(path: Path) -> bool:
    """Whether a run lies there, also one without a complete checkpoint yet: find_run tells what it lacks."""
    return find_checkpoint(path) is not None or (path / "run.yaml").exists() or (path / "checkpoints").exists()


def _require_none(path: Path, for_files: Mapping[str, object]) -> None:
    """Raises ConfigError where a run is given what only other files and folders need."""
    for name, value in for_files.items():
        if value is not None:
            raise ConfigError(f"{name}={value!r} is not for runs, and {path} is one, which has its own; leave it out")


def _load_run(found: RunCheckpoint) -> DiffusionWorld | AutoregressiveWorld:
    run, folder = found.run, found.folder
    mesh, dtype = init.start(run.parallel, seed=run.seed), torch_dtype(run.train.precision)
    origin, statistics = trained_with(folder, run)
    if isinstance(run, WorldDiTRun) and statistics is None:
        raise ConfigError(f"{run.run_dir} has no whitening statistics of its videos; start that run once more")
    codec = codec_of_run(run, origin, statistics, mesh.device)
    if isinstance(run, WorldDiTRun):
        world = DiffusionWorld.build(
            run.model,
            run.parallel,
            mesh,
            path=folder,
            dtype=dtype,
            seed=run.seed,
            learned_uncertainty=run.objective.learned_uncertainty,
            objective=run.objective,
            sampling=run.sample,
        )
    else:
        check_codec(run, codec.config)
        world = AutoregressiveWorld.build(
            run.model, run.parallel, mesh, path=folder, dtype=dtype, seed=run.seed, sampling=run.sample
        )
    require_whole(folder, mesh, contents=run.checkpoint.verify, kinds=WEIGHTS)
    load_weights(folder, world.pieces, mesh, averaged=has_average(folder))
    _freeze(world.pieces)
    reads_text = isinstance(run, WorldDiTRun) or run.model.reads_text
    return replace(
        world,
        codec=codec,
        text=load_text_encoder(run.text, mesh.device) if reads_text else None,
        conditioner=conditioner_of_checkpoint(found),
        windows=TrainedWindows(
            latent_shape=origin.latent_shape or latent_shape(run.data, codec.config), fps=origin.fps
        ),
        trained=trained_run(found, origin),
    )


def trained_run(found: RunCheckpoint, origin: Origin) -> TrainedRun:
    """Return what is known of a run at one of its checkpoints, whose weights need not be loaded.

    Args:
        origin: where its windows came from.
    """
    return TrainedRun(
        run=found.run,
        folder=found.folder,
        step=read_progress(found.folder).step,
        averaged=has_average(found.folder),
        manifest_digest=origin.manifest_digest,
    )


def _codec_beside(
    source: WorldSource, tokenizer: Path | str | None, statistics: LatentStatistics | None, device: torch.device
) -> Codec | None:
    """The tokenizer that was named, or that of the diffusers pipeline that the network lies in."""
    vae = source.path.parent / "vae"
    if tokenizer is None and source.layout == "diffusers" and source.path.name == "transformer" and vae.is_dir():
        tokenizer = vae
    if tokenizer is None:
        return None
    codec = read_codec(Path(tokenizer), statistics, device)
    require_fit(codec, source.config, Path(tokenizer))
    return codec


def _windows(path: Path, size: WindowSize, codec: Codec | None) -> TrainedWindows:
    if codec is None:
        raise ConfigError(f"{path} came without a tokenizer, which makes latents of a window; pass tokenizer=PATH, too")
    config = codec.config
    channels = config.latent_channels if config.kind == "continuous" else 1
    size_HW = config.latent_size(size.height_px, size.width_px)
    return TrainedWindows(latent_shape=(channels, config.latent_frames(size.num_frames), *size_HW), fps=size.fps)


def _freeze(pieces: Sequence[nn.Module]) -> None:
    for piece in pieces:
        piece.requires_grad_(False)
