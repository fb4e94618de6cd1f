"""The way in: `open_world` makes one object of a world model, wherever its weights lie.

a run, or one of its checkpoints    all that it was trained with comes along, on any layout of ranks
any other file or folder            see interop.source; what is no part of it is given by name. In one process
a WorldFile                         the same with the configuration of a run, on any layout of ranks (worlds.file)
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.generate.config import CodeSampleConfig, SampleConfig
from cosmos_train.interop.adapter_files import AdapterFile
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.source import open_source
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.recipes.world_ar import check_codec
from cosmos_train.text.cache import load_text_encoder
from cosmos_train.train.checkpoint.folder import find_checkpoint, read_progress
from cosmos_train.train.checkpoint.load import WEIGHTS, has_average, load_weights
from cosmos_train.train.checkpoint.verify import require_whole
from cosmos_train.windows.filled import latent_shape
from cosmos_train.windows.kept import trained_with
from cosmos_train.windows.stream import Origin
from cosmos_train.worlds.autoregressive import AutoregressiveWorld
from cosmos_train.worlds.codec import Codec, codec_of_run
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.file import FileParts, FoundFile, WorldFile, find_parts
from cosmos_train.worlds.run import RunCheckpoint, find_run
from cosmos_train.worlds.steering import conditioner_of_checkpoint
from cosmos_train.worlds.world import TrainedRun, TrainedWindows

AnyWorld = DiffusionWorld | AutoregressiveWorld


def open_world(
    path: Path | str | RunCheckpoint | WorldFile,
    overrides: Sequence[str] = (),
    *,
    adapters: Sequence[AdapterFile] = (),
    **parts: Unpack[FileParts],
) -> AnyWorld:
    """Open the world model at a path; nothing is written.

    The process is another one afterwards. torch.distributed and megatron-core have groups, of this process alone unless
    the environment names more, until cosmos_train.parallel.init.stop(), after which the model still computes. Where
    there is no GPU, some functions of torch.cuda and of megatron-core have been replaced for the rest of the process,
    and "cuda" means the CPU (cosmos_train.parallel.cpu). Importing this module does none of that.

    Args:
        path: a run, one of its checkpoints, or another file or folder; what find_run or find_file gave where it was
            looked at before.
        overrides: of a run: sample.key=value and parallel.key=value. What was looked at has taken them already.
        adapters: are added to its matrices. What was looked at has taken them already, too.
        parts: of a file, see FileParts. They are refused for runs, which have it all: the moving average of their
            weights, where they kept one, in the number format of the training.

    Raises:
        CheckpointError, ConfigError, DataError, TokenizerError: there is no world model, it is damaged, or something is
            missing, does not belong together, or is not for what lies at the path.
    """
    if isinstance(path, RunCheckpoint | WorldFile):
        if overrides or adapters:
            what = f"the override {overrides[0]!r}" if overrides else f"the adapters {adapters[0].path}"
            name = "find_run" if isinstance(path, RunCheckpoint) else "find_file"
            raise ConfigError(f"{path.path} has been found already; give {name} {what}")
        _require_none(path.path, parts)
        return _load_run(path) if isinstance(path, RunCheckpoint) else _load_described(path)
    path = Path(path)
    if _is_run(path) or (overrides and not path.is_file()):
        found = find_run(path, overrides, adapters=adapters)
        _require_none(path, parts)
        return _load_run(found)
    if overrides:
        raise ConfigError(f"{path} is no run of ours, and only a run has settings to override; got {overrides[0]!r}")
    return _load_parts(path, find_parts(path, parts, adapters), parts)


def _is_run(path: Path) -> bool:
    """Whether a run lies there, also one without a complete checkpoint yet: find_run tells what it lacks."""
    return find_checkpoint(path) is not None or (path / "run.yaml").exists() or (path / "checkpoints").exists()


def _require_none(path: Path, parts: FileParts) -> None:
    """Raises ConfigError where a run is given what only other files and folders need."""
    for name, value in parts.items():
        if value is not None:
            raise ConfigError(f"{name}={value!r} is not for runs, and {path} is one, which has its own; leave it out")


def _load_run(found: RunCheckpoint) -> AnyWorld:
    """Open a run's checkpoint, with its average where it has one."""
    run, folder = found.run, found.folder
    mesh = init.start(run.parallel, seed=run.seed)
    origin, statistics = trained_with(folder, run)
    if isinstance(run, WorldDiTRun) and statistics is None:
        raise ConfigError(f"{run.run_dir} has no whitening statistics of its videos; start that run once more")
    codec = codec_of_run(run, origin, statistics, mesh.device)
    learned_uncertainty = isinstance(run, WorldDiTRun) and run.objective.learned_uncertainty
    world = _built(run, codec, mesh, path=folder, learned_uncertainty=learned_uncertainty)
    require_whole(folder, mesh, contents=run.checkpoint.verify, kinds=WEIGHTS)
    averaged = has_average(folder)
    if run.lora.rank or found.adapters:  # what is computed with is made of what lies in several places
        weights = "ema" if averaged else "network"
        source = open_source(folder, weights=weights, verify=False, adapters=found.adapters)
        load_pieces(source, world.pieces, mesh)
    else:
        load_weights(folder, world.pieces, mesh, averaged=averaged)
    shape = origin.latent_shape or latent_shape(run.data, codec.config)
    return replace(
        _frozen(world),
        conditioner=conditioner_of_checkpoint(found),
        windows=TrainedWindows(latent_shape=shape, fps=origin.fps),
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


def _load_described(file: WorldFile) -> AnyWorld:
    """Open a file that a run's configuration describes."""
    run, found = file.run, file.found
    assert found.codec is not None, "find_file: it was named"
    mesh = init.start(run.parallel, seed=run.seed)
    codec, learned_uncertainty = found.codec.on(mesh.device), found.source.learned_uncertainty
    world = _built(run, codec, mesh, path=file.path, learned_uncertainty=learned_uncertainty)
    load_pieces(found.source, world.pieces, mesh)
    return replace(
        _frozen(world),
        conditioner=found.conditioner,
        windows=found.windows,
        trained=TrainedRun(run=run, folder=file.path, step=None, averaged=False, manifest_digest=""),
        notes=found.notes,
    )


def _load_parts(path: Path, found: FoundFile, parts: FileParts) -> AnyWorld:
    """Open a file whose parts were given one by one, in this process alone."""
    parallel, text = ParallelConfig(), parts.get("text_encoder")
    mesh = init.start(parallel, seed=0)
    model, dtype, objective = found.source.config, parts.get("dtype") or torch.float32, parts.get("objective")
    if isinstance(model, DiTConfig):
        world = DiffusionWorld.build(
            model,
            parallel,
            mesh,
            path=path,
            dtype=dtype,
            seed=0,
            learned_uncertainty=found.source.learned_uncertainty,
            objective=objective or EdmConfig(),
            sampling=SampleConfig(),
        )
    else:
        sampling = CodeSampleConfig()
        world = AutoregressiveWorld.build(model, parallel, mesh, path=path, dtype=dtype, seed=0, sampling=sampling)
    load_pieces(found.source, world.pieces, mesh)
    return replace(
        _frozen(world),
        codec=None if found.codec is None else found.codec.on(mesh.device),
        text=None if text is None else load_text_encoder(text, mesh.device),
        conditioner=found.conditioner,
        windows=found.windows,
        notes=found.notes,
    )


def _built(
    run: WorldDiTRun | WorldARRun, codec: Codec, mesh: Mesh, *, path: Path, learned_uncertainty: bool
) -> AnyWorld:
    """Return the world of a run with its first weights, tokenizer and text encoder."""
    dtype = torch_dtype(run.train.precision)
    if isinstance(run, WorldDiTRun):
        world = DiffusionWorld.build(
            run.model,
            run.parallel,
            mesh,
            path=path,
            dtype=dtype,
            seed=run.seed,
            learned_uncertainty=learned_uncertainty,
            objective=run.objective,
            sampling=run.sample,
        )
    else:
        check_codec(run, codec.config)
        world = AutoregressiveWorld.build(
            run.model, run.parallel, mesh, path=path, dtype=dtype, seed=run.seed, sampling=run.sample
        )
    reads_text = isinstance(run, WorldDiTRun) or run.model.reads_text
    return replace(world, codec=codec, text=load_text_encoder(run.text, mesh.device) if reads_text else None)


def _frozen(world: AnyWorld) -> AnyWorld:
    """Return the world, whose weights are read and stay as they are."""
    for piece in world.pieces:
        piece.requires_grad_(False)
    return world
