"""A diffusion world model in any layout, recognised and opened, with its tensors under our names.

ours         a folder that `write_ours` made: config.json, model*.safetensors
checkpoint   a run of ours or one of its checkpoints, of any layout of ranks
official     NVIDIA's files, see `official`
diffusers    a CosmosTransformer3DModel or a pipeline with one, see `pipeline`
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cosmos_tok.convert import read_arguments
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.interop import official, pipeline
from cosmos_train.interop.names import OurTensors, table
from cosmos_train.interop.stores import (
    CheckpointStore,
    SafetensorsStore,
    TensorStore,
    find_safetensors,
    write_safetensors,
)
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.train import checkpoint

FORMAT = "cosmos-train world model 1"
CONFIG, STEM, ARGUMENTS = "config.json", "model", "arguments.json"


@dataclass(frozen=True)
class WorldSource:
    """A world model as it was found. Nothing of it has been read but names and shapes."""

    layout: str
    path: Path
    config: DiTConfig
    learned_uncertainty: bool
    ours: TensorStore
    """Its tensors under our names."""
    notes: list[str] = field(default_factory=list)

    @property
    def num_parameters(self) -> int:
        """Of the network, without the learned uncertainty."""
        return sum(tensor.numel() for name, tensor in self.ours.meta.items() if name.startswith("net."))


def is_world_model(path: Path) -> bool:
    """Whether there is a diffusion world model at `path`, of any layout. Reads no weight."""
    if path.is_dir() and (_is_ours(path) or _is_checkpoint(path) or pipeline.find_folder(path)):
        return True
    return official.is_official(path)


def open_world(
    path: Path | str, arguments: Mapping[str, Any] | None = None, *, weights: str = "network"
) -> WorldSource:
    """Recognise and open a world model.

    Args:
        arguments: of the official constructor, for official files; by default those in arguments.json beside the file.
        weights: network or ema, for what holds both.

    Raises:
        ConfigError, TokenizerError: there is none, it is damaged, or not of the architecture that it should have.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; name the file or folder of a world model")
    if path.is_dir() and _is_ours(path):
        return _open_ours(path)
    if path.is_dir() and _is_checkpoint(path):
        return _open_checkpoint(path, averaged=weights == "ema")
    if path.is_dir() and (folder := pipeline.find_folder(path)):
        found = pipeline.PipelineFolder(folder)
        return _by_official_names("diffusers", folder, found.config, found, found.learned_uncertainty, [])
    if arguments is None and (beside := (path if path.is_dir() else path.parent) / ARGUMENTS).is_file():
        arguments = read_arguments(beside)
    file = official.open_official(path, arguments, weights=weights)
    return _by_official_names("official", path, file.config, file, file.learned_uncertainty, file.notes)


def write_ours(folder: Path, config: DiTConfig, ours: TensorStore, *, learned_uncertainty: bool) -> None:
    """Write config.json and the weights into a folder that exists."""
    document = {"format": FORMAT, "config": asdict(config)}
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n")
    names = [entry.ours for entry in table(config, learned_uncertainty=learned_uncertainty)]
    meta = {name: ours.meta[name] for name in names}
    write_safetensors(folder, STEM, meta, ((name, ours.read(name)) for name in names))


def _by_official_names(
    layout: str, path: Path, config: DiTConfig, store: TensorStore, learned_uncertainty: bool, notes: list[str]
) -> WorldSource:
    entries = table(config, learned_uncertainty=learned_uncertainty)
    ours = OurTensors(store, entries, config.num_heads)
    return WorldSource(layout, path, config, learned_uncertainty, ours, notes)


def _is_ours(folder: Path) -> bool:
    try:
        return str(json.loads((folder / CONFIG).read_text())["format"]).startswith(FORMAT.rstrip("0123456789 "))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_checkpoint(folder: Path) -> bool:
    return (folder / checkpoint.MARKER).is_file() or checkpoint.newest_checkpoint(folder) is not None


def _open_ours(folder: Path) -> WorldSource:
    document = json.loads((folder / CONFIG).read_text())
    known = {one.name for one in fields(DiTConfig)}
    unknown = sorted(document["config"].keys() - known)
    if document["format"] != FORMAT or unknown:
        raise ConfigError(
            f"{folder} is of format {document['format']!r}{f' with {unknown[0]}' if unknown else ''}, and this code "
            f"reads {FORMAT!r}; use a newer cosmos-train"
        )
    weights = find_safetensors(folder, STEM)
    if weights is None:
        raise ConfigError(f"{folder} holds no {STEM}.safetensors and no index of shards; copy the folder again")
    store, config = SafetensorsStore(weights), DiTConfig(**document["config"])
    return _of_our_names("ours", folder, config, store)


def _open_checkpoint(path: Path, *, averaged: bool) -> WorldSource:
    folder = checkpoint.resolve(path)
    run = load_run(str(folder / "run.yaml"))
    if not isinstance(run, WorldDiTRun):
        raise ConfigError(f"{folder} is of a {run.recipe} run; only diffusion world models are converted from there")
    notes = [] if averaged else ["the weights of the last step; --weights ema takes their moving average, if any"]
    return _of_our_names("checkpoint", folder, run.model, CheckpointStore(folder, averaged=averaged), notes)


def _of_our_names(
    layout: str, path: Path, config: DiTConfig, store: TensorStore, notes: list[str] | None = None
) -> WorldSource:
    learned_uncertainty = "uncertainty.linear.weight" in store.meta
    entries = table(config, learned_uncertainty=learned_uncertainty)
    for entry in entries:
        wanted = (len(entry.official) * entry.shape[0], *entry.shape[1:])
        found = store.meta.get(entry.ours)
        if found is None or tuple(found.shape) != wanted:
            shape = "absent" if found is None else "x".join(map(str, found.shape))
            raise ConfigError(
                f"{path}: {entry.ours} is {shape}, and its configuration says {'x'.join(map(str, wanted))}; "
                "copy the folder again"
            )
    return WorldSource(layout, path, config, learned_uncertainty, store, notes or [])
