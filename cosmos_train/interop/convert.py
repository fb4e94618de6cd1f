"""World models of other projects become ours, and ours theirs; each conversion is proven at its end.

    ours        a folder that `source.write_ours` makes
    official    model.pt and arguments.json, as NVIDIA releases models
    training    iter_000000000*.pt and arguments.json, as NVIDIA's training saves them
    diffusers   the folder of a pipeline, see `pipeline`; of diffusion models

What was written is opened again. Its tensors must be the source's bit for bit, and both must give the same output on a
fixed input within TOLERANCE; only then is the result renamed to the folder asked for, with what was found about it in
conversion.json. Tensors go from file to file one at a time, in the number format that they have.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_tok.convert import convert as convert_tokenizer
from cosmos_train.conditions.action_statistics import ACTIONS
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop import adapter_files, official_ar, official_dit
from cosmos_train.interop.adapter_files import AdapterFile
from cosmos_train.interop.adapters import AdaptedTensors, Adapters
from cosmos_train.interop.compare import outputs
from cosmos_train.interop.names import official_tensors
from cosmos_train.interop.pipeline import write_pipeline
from cosmos_train.interop.source import ARGUMENTS, WorldSource, find_action_statistics, open_source, write_ours
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig

TOLERANCE = 1e-4
"""Largest difference, as a part of the largest output or of 1."""
LAYOUTS = ("ours", "official", "training", "diffusers", "transformers")
RECORD = "conversion.json"


@dataclass(frozen=True)
class WorldConversion:
    """What was converted, and how closely the result agrees with the source."""

    layout: str
    config: DiTConfig | WorldARConfig
    learned_uncertainty: bool
    num_parameters: int
    compared_with: str
    size_THW: tuple[int, int, int]
    """Latent frames, rows and columns of the input that was compared."""
    difference: float
    """Largest absolute difference of outputs."""
    notes: tuple[str, ...]


def convert(
    source: Path | str,
    out: Path | str,
    *,
    to: str = "ours",
    arguments: Mapping[str, Any] | None = None,
    weights: str = "network",
    tokenizer: Path | str | None = None,
    tp: int = 1,
    adapters: Sequence[AdapterFile] = (),
) -> WorldConversion:
    """Write the world model at `source` to the new folder `out` in the layout `to`, and prove it. What its actions are
    normalised with comes along.

    `arguments` and `weights` as for `open_source`; `tokenizer`, of any layout, becomes the vae of a diffusers folder;
    tp > 1 writes the tensor-parallel shards of so many ranks, of an autoregressive model's official layouts; adapters
    become part of its matrices.
    ConfigError or TokenizerError, and no folder, if something can not be read or written, or the result differs.
    """
    out = Path(out)
    if to not in LAYOUTS:
        raise ConfigError(f"to={to} is not a layout; use one of {', '.join(LAYOUTS)}")
    if tokenizer is not None and to != "diffusers":
        raise ConfigError(f"a tokenizer is part of a diffusers folder, not of to={to}; convert it by itself")
    with _new_folder(out) as aside:
        found = open_source(source, arguments, weights=weights, adapters=adapters)
        _require_place(found, to, tp)
        found = found if to == "ours" else found.without_heads()
        if tokenizer is not None:
            convert_tokenizer(tokenizer, aside / "vae", to="diffusers")
        result = _write(aside, found, to, tp)
        _require_same_tensors(found, result)
        conversion = _compare(found, result)
        record = asdict(conversion) | {"source": found.path.name, "written_as": to}
        statistics = find_action_statistics(Path(source))
        if statistics is not None:
            shutil.copyfile(statistics, aside / ACTIONS)
        (aside / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return conversion


def convert_adapters(
    source: Path, out: Path, *, to: str, weights: str = "network", adapters: Sequence[AdapterFile] = ()
) -> Adapters:
    """Write adapters into the new folder `out` in the layout `to` (adapter_files.LAYOUTS), and return what was written.

    They are those of the run at `source`, or, where a file is given, that file's, and `source` is the model that they
    are of. `weights` as for `open_source`.

    Raises:
        CheckpointError, ConfigError: there are no adapters, or several, or they are not the model's; `out` exists.
    """
    if to not in adapter_files.LAYOUTS:
        raise ConfigError(f"--to {to} is no layout of adapters; use one of {', '.join(adapter_files.LAYOUTS)}")
    if len(adapters) > 1:
        raise ConfigError(
            f"--only-adapters writes those of one training, and --adapter names {len(adapters)}; name one"
        )
    with _new_folder(out) as aside:
        model = open_source(source, weights=weights)
        if adapters:
            [file] = adapters
            found = adapter_files.read_adapters(file.path, model.entries, alpha=file.alpha, strength=file.strength)
        elif isinstance(model.ours, AdaptedTensors):
            [found] = model.ours.adapters
        else:
            raise ConfigError(
                f"{source} has no adapters of its own; name their file with --adapter, or a run that has lora.rank"
            )
        adapter_files.write_adapters(aside, found, to, in_diffusers=isinstance(model.config, DiTConfig))
    return found


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` at the end of the block, or is gone where the block fails.

    Raises:
        ConfigError: `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; remove it or convert to another folder")
    aside = out.with_name(f".{out.name}.converting")
    if aside.exists():
        shutil.rmtree(aside)  # what an interrupted conversion left
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _require_place(found: WorldSource, to: str, tp: int) -> None:
    """ConfigError where the layout has no place for this kind of model, or no shards."""
    is_ar = isinstance(found.config, WorldARConfig)
    if tp < 1:
        raise ConfigError(f"--tp {tp} must be at least 1")
    if to == "transformers" and is_ar:
        raise ConfigError(
            f"{found.path} is not a LlamaForCausalLM: that class neither normalises the queries and keys of a head nor "
            "counts positions along time, rows and columns; use --to ours or official"
        )
    if to == "transformers":
        raise ConfigError(f"{found.path} is a diffusion world model, and transformers has none; use --to diffusers")
    if to == "diffusers" and is_ar:
        raise ConfigError(f"{found.path} is an autoregressive world model, and diffusers has none; use --to official")
    if tp != 1 and not (is_ar and to in ("official", "training")):
        raise ConfigError(f"--tp {tp} is for the official layouts of autoregressive world models; leave it out")


def _write(folder: Path, found: WorldSource, to: str, tp: int = 1) -> WorldSource:
    """Write into a folder that exists, and open that again."""
    if to == "ours":
        write_ours(folder, found)
        return open_source(folder)
    if to == "diffusers":
        write_pipeline(folder, found.require_dit(), found.entries, found.ours)
        return open_source(folder)
    tensors = partial(official_tensors, found.entries, found.ours)
    if isinstance(found.config, DiTConfig):
        arguments = official_dit.official_arguments(found.config)
        file = official_dit.write_official(folder, to, tensors())
    else:
        arguments = official_ar.official_arguments(found.config)
        file = official_ar.write_official(folder, to, found.config, tensors, tp=tp)
    (folder / ARGUMENTS).write_text(json.dumps(arguments, indent=2) + "\n")
    return open_source(file)


def _require_same_tensors(found: WorldSource, result: WorldSource) -> None:
    """Bit for bit, in the same number format, under our names."""
    if found.config != result.config:
        raise ConfigError(
            f"{found.path}, converted, is of another architecture: {result.config} instead of {found.config}; nothing "
            "was written: report this"
        )
    for entry in found.entries:
        if not _is_same(found.ours.read(entry.ours), result.ours.read(entry.ours)):
            what = f"{entry.ours} {list(entry.shape)}"
            raise ConfigError(f"{found.path}, converted, differs in {what}; nothing was written: report this")


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Of a NaN too: the bytes decide."""
    return a.dtype == b.dtype and torch.equal(*(x.contiguous().view(-1).view(torch.uint8) for x in (a, b)))


def _compare(found: WorldSource, result: WorldSource) -> WorldConversion:
    one, back = outputs(found), outputs(result)
    difference = (one.output - back.output).abs().max().item()
    scale = max(1.0, one.output.abs().max().item())
    if one.uncertainty is not None and back.uncertainty is not None:
        difference = max(difference, (one.uncertainty - back.uncertainty).abs().max().item())
    if not difference <= TOLERANCE * scale:  # a NaN is no agreement either
        raise ConfigError(
            f"{found.path}, converted, does not compute what it did: outputs of up to {scale:.3g} differ by "
            f"{difference:.3g}, the limit is {TOLERANCE:g} of that; nothing was written. If its architecture is not "
            f"{found.config}, say so with --arguments"
        )
    peers = [by for by in (one.by, back.by) if by != "the weights as read"]
    return WorldConversion(
        layout=found.layout,
        config=found.config,
        learned_uncertainty=found.learned_uncertainty,
        num_parameters=found.num_parameters,
        compared_with=" and ".join(peers) or one.by,
        size_THW=one.size_THW,
        difference=difference,
        notes=tuple(found.notes),
    )
