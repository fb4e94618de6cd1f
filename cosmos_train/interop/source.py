"""A world model of either kind in any layout, recognised and opened, with its tensors under our names.

ours         a folder that `write_ours` made: config.json, model*.safetensors
checkpoint   a run of ours or one of its checkpoints, of any layout of ranks
official     NVIDIA's files, see `official_dit` and `official_ar`
diffusers    a CosmosTransformer3DModel or a pipeline with one, see `pipeline`
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from cosmos_tok.convert import read_arguments
from cosmos_tok.number_formats import require_float
from cosmos_tok.weight_file import refuse_broken_links
from cosmos_tok.weights import open_weights
from cosmos_train.conditions.action_statistics import ACTIONS
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.interop import official_ar, official_dit, pipeline
from cosmos_train.interop.adapter_files import AdapterFile, read_adapters
from cosmos_train.interop.adapters import AdaptedTensors, AdapterFacts, Adapters, TrainedOnBase, adapters_of_run
from cosmos_train.interop.names import Entry, OurTensors, official_shapes
from cosmos_train.interop.names_ar import ar_table
from cosmos_train.interop.names_dit import dit_table
from cosmos_train.interop.stores import (
    CheckpointStore,
    TensorStore,
    find_safetensors,
    write_safetensors,
)
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.train.checkpoint.folder import find_checkpoint, resolve
from cosmos_train.train.checkpoint.load import WEIGHTS
from cosmos_train.train.checkpoint.verify import require_whole

FORMATS: dict[str, type[DiTConfig] | type[WorldARConfig]] = {
    "cosmos-train world model 1": DiTConfig,
    "cosmos-train autoregressive world model 1": WorldARConfig,
}
CONFIG, STEM, ARGUMENTS = "config.json", "model", "arguments.json"


@dataclass(frozen=True)
class WorldSource:
    """A world model as it was found. Nothing of it has been read but names and shapes."""

    layout: str
    path: Path
    config: DiTConfig | WorldARConfig
    entries: list[Entry]
    ours: TensorStore
    """Its tensors under our names."""
    notes: list[str] = field(default_factory=list)
    untold: tuple[str, ...] = ()
    """Fields of `config` that nothing at the path tells, and that are taken as released."""

    @property
    def num_parameters(self) -> int:
        """Of the network, without the learned uncertainty."""
        network = [entry for entry in self.entries if not entry.ours.startswith("uncertainty.")]
        return sum(math.prod(shape) for shape in official_shapes(network).values())

    @property
    def learned_uncertainty(self) -> bool:
        """Whether it has the official `logvar`."""
        return any(entry.ours.startswith("uncertainty.") for entry in self.entries)

    def without_heads(self) -> "WorldSource":
        """The same without Medusa heads, for which other layouts have no place."""
        if not isinstance(self.config, WorldARConfig) or not self.config.medusa_heads:
            return self
        note = f"its {self.config.medusa_heads} Medusa heads are left out: the official files have no place for them"
        config = replace(self.config, medusa_heads=0)
        return replace(self, config=config, entries=ar_table(config), notes=[*self.notes, note])

    def require_dit(self) -> DiTConfig:
        """The architecture of a diffusion model. ConfigError where this is the other kind."""
        if not isinstance(self.config, DiTConfig):
            raise ConfigError(f"{self.path} is an autoregressive world model, not a diffusion one; name another")
        return self.config

    def require_ar(self) -> WorldARConfig:
        """The architecture of an autoregressive model. ConfigError where this is the other kind."""
        if not isinstance(self.config, WorldARConfig):
            raise ConfigError(f"{self.path} is a diffusion world model, not an autoregressive one; name another")
        return self.config


def is_world_model(path: Path) -> bool:
    """Whether there is a world model at `path`, of any kind and layout. Reads no weight."""
    refuse_broken_links(path)
    if path.is_dir() and (_is_ours(path) or _is_checkpoint(path) or pipeline.find_folder(path)):
        return True
    return official_ar.is_official(path) or official_dit.is_official(path)


def open_source(
    path: Path | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    weights: str = "network",
    verify: bool = True,
    adapters: Sequence[AdapterFile] = (),
) -> WorldSource:
    """Recognise and open a world model.

    Args:
        arguments: of the official constructor, for official files; by default those in arguments.json beside the file.
        weights: network or ema, for what holds both.
        verify: compare a checkpoint of a run with its digests, unless that run says checkpoint.verify=false.
        adapters: are added to its matrices, all at once.

    Raises:
        CheckpointError, ConfigError, TokenizerError: there is none, it is damaged, or not of the architecture that it
            should have.
    """
    found = _open(Path(path), arguments, weights=weights, verify=verify)
    return _with_adapters(found, adapters) if adapters else found


def _open(path: Path, arguments: Mapping[str, Any] | None, *, weights: str, verify: bool) -> WorldSource:
    refuse_broken_links(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; name the file or folder of a world model")
    if path.is_dir() and _is_ours(path):
        return _open_ours(path)
    if path.is_dir() and _is_checkpoint(path):
        return _open_checkpoint(path, averaged=weights == "ema", verify=verify)
    if path.is_dir() and (folder := pipeline.find_folder(path)):
        found = pipeline.PipelineFolder(folder)
        return WorldSource("diffusers", folder, found.config, found.entries, OurTensors(found, found.entries))
    if arguments is None and (beside := (path if path.is_dir() else path.parent) / ARGUMENTS).is_file():
        arguments = read_arguments(beside)
    if official_ar.is_official(path):
        file = official_ar.open_official(path, arguments)
    else:
        file = official_dit.open_official(path, arguments, weights=weights)
    ours = OurTensors(file, file.entries)
    return WorldSource("official", path, file.config, file.entries, ours, file.notes, file.untold)


def _with_adapters(found: WorldSource, files: Sequence[AdapterFile]) -> WorldSource:
    """Return the model with adapters of files in it."""
    notes, read = list(found.notes), list[Adapters]()
    for file in files:
        one = read_adapters(file.path, found.entries, alpha=file.alpha, strength=file.strength)
        read.append(one)
        strength = "" if file.strength == 1 else f", {file.strength:g} times as strong as trained"
        notes.append(f"with {file.path}: adapters of {len(one.matrices)} matrices{strength}")
    ours = AdaptedTensors(found.ours, found.entries, read)
    if not any(_changes(found.ours, ours, entry) for entry in found.entries):
        raise ConfigError(
            f"{', '.join(str(file.path) for file in files)} changes no number of {found.path}: it is too weak for the "
            "number format of its matrices, or its strength is 0; take the model in fp32, or leave the adapters out"
        )
    return replace(found, ours=ours, notes=notes)


def _changes(before: TensorStore, after: AdaptedTensors, entry: Entry) -> bool:
    is_adapted = any(entry.official.keys() & one.matrices.keys() for one in after.adapters)
    return is_adapted and not torch.equal(before.read(entry.ours), after.read(entry.ours))


def write_ours(folder: Path, source: WorldSource) -> None:
    """Write config.json and the weights into a folder that exists."""
    [kind] = [name for name, config in FORMATS.items() if isinstance(source.config, config)]
    document = {"format": kind, "config": asdict(source.config)}
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n")
    names = [entry.ours for entry in source.entries]
    meta = {name: source.ours.meta[name] for name in names}
    write_safetensors(folder, STEM, meta, ((name, source.ours.read(name)) for name in names))


def find_action_statistics(path: Path) -> Path | None:
    """Return the file of what the actions of a world model are normalised with, which lies in a checkpoint, or beside
    the weights of any other layout; None where there is none."""
    folder = find_checkpoint(path) or (path if path.is_dir() else path.parent)
    return folder / ACTIONS if (folder / ACTIONS).is_file() else None


def _is_ours(folder: Path) -> bool:
    try:
        found = str(json.loads((folder / CONFIG).read_text())["format"])
        return any(found.startswith(known.rstrip("0123456789 ")) for known in FORMATS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_checkpoint(folder: Path) -> bool:
    return find_checkpoint(folder) is not None


def _open_ours(folder: Path) -> WorldSource:
    document = json.loads((folder / CONFIG).read_text())
    kind, stored = FORMATS.get(document["format"]), document["config"]
    unknown = sorted(stored.keys() - {one.name for one in fields(kind)}) if kind else []
    if kind is None or unknown:
        raise ConfigError(
            f"{folder} is of format {document['format']!r}{f' with {unknown[0]}' if unknown else ''}, and this code "
            f"reads {', '.join(map(repr, FORMATS))}; use a newer cosmos-train"
        )
    weights = find_safetensors(folder, STEM)
    if weights is None:
        raise ConfigError(f"{folder} holds no {STEM}.safetensors and no index of shards; copy the folder again")
    tuples = {key: tuple(value) for key, value in stored.items() if isinstance(value, list)}  # JSON has none
    return _of_our_names("ours", folder, kind(**(stored | tuples)), open_weights(weights))


def _open_checkpoint(path: Path, *, averaged: bool, verify: bool) -> WorldSource:
    folder = resolve(path)
    run = load_run(str(folder / "run.yaml"))
    if not isinstance(run, WorldDiTRun | WorldARRun):
        raise ConfigError(f"{folder} is of a {run.recipe} run; only world models are converted from there")
    if verify:
        require_whole(folder, None, contents=run.checkpoint.verify, kinds=WEIGHTS)
    notes = [] if averaged else ["the weights of the last step; --weights ema takes their moving average, if any"]
    store: TensorStore = CheckpointStore(folder, averaged=averaged)
    if run.lora.rank:
        store = _with_base(store, run, folder)
        notes.append(f"its adapters are part of the matrices of {run.lora.base}")
    return _of_our_names("checkpoint", folder, run.model, store, notes)


def _with_base(trained: TensorStore, run: WorldDiTRun | WorldARRun, folder: Path) -> AdaptedTensors:
    """Return the whole model of a run that trains adapters."""
    assert run.lora.base is not None
    base = open_source(run.lora.base, verify=False)  # each of its tensors is compared as it is read
    if isinstance(run.model, DiTConfig):
        learned_uncertainty = any(entry.ours.startswith("uncertainty.") for entry in base.entries)
        entries = dit_table(run.model, learned_uncertainty=learned_uncertainty)
    else:
        entries = ar_table(run.model)
    facts = AdapterFacts.read(folder)
    store = TrainedOnBase(base.ours, trained, facts, base.path)
    return AdaptedTensors(store, entries, [adapters_of_run(trained, facts, entries, folder)])


def _of_our_names(
    layout: str, path: Path, config: DiTConfig | WorldARConfig, store: TensorStore, notes: list[str] | None = None
) -> WorldSource:
    if isinstance(config, DiTConfig):
        entries = dit_table(config, learned_uncertainty="uncertainty.linear.weight" in store.meta)
    else:
        entries = ar_table(config)
    for entry in entries:
        found = store.meta.get(entry.ours)
        if found is None or tuple(found.shape) != entry.shape:
            shape = "absent" if found is None else "x".join(map(str, found.shape))
            raise ConfigError(
                f"{path}: {entry.ours} is {shape}, and its configuration says {'x'.join(map(str, entry.shape))}; "
                "copy the folder again"
            )
        require_float(entry.ours, found, str(path))
    return WorldSource(layout, path, config, entries, store, notes or [])
