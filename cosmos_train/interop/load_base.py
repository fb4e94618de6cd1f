"""The world model that a run's adapters are of, into this rank's pieces of a network that has them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.interop.adapters import FILE, AdapterFacts, DigestedTensors
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.names import NUM_SHOWN
from cosmos_train.interop.source import open_source
from cosmos_train.models.dit.world import WorldModel
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel.lora import has_adapter
from cosmos_train.parallel.mesh import Mesh, from_main, over_stages
from cosmos_train.parallel.param_groups import lr_factor
from cosmos_train.parallel.shard import mark_in_base
from cosmos_train.train.checkpoint.folder import find_checkpoint
from cosmos_train.train.checkpoint.verify import require_whole


def load_base(
    run: WorldDiTRun | WorldARRun, pieces: Sequence[WorldModel] | Sequence[WorldAR], mesh: Mesh
) -> dict[str, str]:
    """Fill a run's pieces with the model that its adapters are of, and return what checkpoints say of it: name of the
    file -> its text. Called on every rank; nothing is done of a run without adapters.

    Raises:
        ConfigError: the model is not that of the run, or not the one that the run began with; or a tensor that it
            lacks would never be trained; or the adapters began with another rank, strength or list of targets.
    """
    if not run.lora.rank:
        return {}
    assert run.lora.alpha is not None and run.lora.base is not None
    base = Path(run.lora.base)
    of_ours = from_main(mesh, lambda: find_checkpoint(base))
    if of_ours is not None:  # all ranks share the reading
        require_whole(of_ours, mesh, contents=run.checkpoint.verify, kinds=("model",))
    source = open_source(base, verify=False)
    digested = DigestedTensors(source.ours)
    config = run.checkpoint
    read = replace(source, ours=digested)
    is_new = load_pieces(read, pieces, mesh, new=config.init_new, unused=config.init_unused)
    _require_trained(is_new, pieces, run, mesh)
    for name, tensor in _tensors(pieces).items():
        if name in digested.digests and name not in is_new and lr_factor(name, run.lr_factors) == 0:
            mark_in_base(tensor)
    facts = AdapterFacts(
        rank=run.lora.rank,
        alpha=run.lora.alpha,
        targets=run.lora.targets,
        base=run.lora.base,
        base_tensors=dict(sorted(over_stages(digested.digests, mesh).items())),
    )
    from_main(mesh, lambda: _require_as_begun(run, facts))
    return {FILE: facts.to_json()}


def _tensors(pieces: Sequence[nn.Module]) -> dict[str, Tensor]:
    found = dict[str, Tensor]()
    for piece in pieces:
        found |= piece.state_dict(keep_vars=True)
    return found


def _require_trained(is_new: set[str], pieces: Sequence[nn.Module], run: WorldDiTRun | WorldARRun, mesh: Mesh) -> None:
    """ConfigError, on every stage, where the base lacks a tensor that is neither trained nor has an adapter."""
    layers = dict[str, nn.Module]()
    for piece in pieces:
        layers |= dict(piece.named_modules())
    own = []
    for name in is_new:
        layer = layers.get(name.rpartition(".")[0])
        is_adapted = layer is not None and has_adapter(layer) and name.endswith(".weight")
        if layer is not None and lr_factor(name, run.lr_factors) == 0 and not is_adapted:
            own.append(name)
    frozen = sorted(over_stages(dict.fromkeys(own), mesh))
    if frozen:
        raise ConfigError(
            f"{', '.join(frozen[:NUM_SHOWN])}{' and more' if len(frozen) > NUM_SHOWN else ''}: "
            f"lora.base={run.lora.base} lacks it (checkpoint.init_new={list(run.checkpoint.init_new)}), and it would "
            "stay as it begins for ever; give its pattern a factor in optim.lr_factors, or its layer an adapter by "
            "lora.targets"
        )


def _require_as_begun(run: WorldDiTRun | WorldARRun, facts: AdapterFacts) -> None:
    """ConfigError where the run began with other adapters, or on another model."""
    folder = Path(run.run_dir)
    if not (folder / FILE).is_file() and run.checkpoint.resume_from is not None:
        folder = find_checkpoint(Path(run.checkpoint.resume_from)) or folder
    if not (folder / FILE).is_file() or not find_checkpoint(folder):
        return
    begun = AdapterFacts.read(folder)
    for key in ("rank", "alpha", "targets"):
        before, now = getattr(begun, key), getattr(facts, key)
        if before != now:
            raise ConfigError(
                f"lora.{key}={now}, but {folder} began with {before}; set that, or start afresh with another run_dir"
            )
    differing = sorted(
        name
        for name in begun.base_tensors.keys() | facts.base_tensors.keys()
        if begun.base_tensors.get(name) != facts.base_tensors.get(name)
    )
    if differing:
        raise ConfigError(
            f"lora.base={run.lora.base} is not the model that {folder} began with, which lay at {begun.base}: "
            f"{', '.join(differing[:NUM_SHOWN])} differ; restore that model, or start afresh with another run_dir"
        )
