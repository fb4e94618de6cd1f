"""Diffusion world models of other projects become ours, and ours theirs; each conversion is proven at its end.

    ours        a folder that `source.write_ours` makes
    official    model.pt and arguments.json, as NVIDIA releases models
    training    iter_000000000_reg_model.pt and arguments.json, as NVIDIA's training saves them
    diffusers   the folder of a pipeline, see `pipeline`

What was written is opened again. Its tensors must be the source's bit for bit, and both must give the same output on a
fixed input within TOLERANCE; only then is the result renamed to the folder asked for, with what was found about it in
conversion.json. Tensors go from file to file one at a time, in the number format that they have.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_tok.convert import convert as convert_tokenizer
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.compare import FixedInput, outputs
from cosmos_train.interop.names import official_tensors, table
from cosmos_train.interop.official import official_arguments
from cosmos_train.interop.pipeline import write_pipeline
from cosmos_train.interop.source import ARGUMENTS, WorldSource, open_world, write_ours
from cosmos_train.interop.stores import write_pickle
from cosmos_train.models.dit.config import DiTConfig

TOLERANCE = 1e-4
"""Largest difference, as a part of the largest output or of 1."""
LAYOUTS = ("ours", "official", "training", "diffusers")
RECORD = "conversion.json"


@dataclass(frozen=True)
class WorldConversion:
    """What was converted, and how closely the result agrees with the source."""

    layout: str
    config: DiTConfig
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
) -> WorldConversion:
    """Write the world model at `source` to the new folder `out` in the layout `to`, and prove it.

    `arguments` and `weights` as for `open_world`; `tokenizer`, of any layout, becomes the vae of a diffusers folder.
    ConfigError or TokenizerError, and no folder, if something can not be read or written, or the result differs.
    """
    out = Path(out)
    if to not in LAYOUTS:
        raise ConfigError(f"to={to} is not a layout; use one of {', '.join(LAYOUTS)}")
    if tokenizer is not None and to != "diffusers":
        raise ConfigError(f"a tokenizer is part of a diffusers folder, not of to={to}; convert it by itself")
    if out.exists():
        raise ConfigError(f"{out} exists already; remove it or convert to another folder")
    found = open_world(source, arguments, weights=weights)
    aside = out.with_name(f".{out.name}.converting")
    if aside.exists():
        shutil.rmtree(aside)  # what an interrupted conversion left
    try:
        aside.mkdir(parents=True)
        if tokenizer is not None:
            convert_tokenizer(tokenizer, aside / "vae", to="diffusers")
        result = _write(aside, found, to)
        _require_same_tensors(found, result)
        conversion = _compare(found, result)
        record = asdict(conversion) | {"source": found.path.name, "written_as": to}
        (aside / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return conversion


def _write(folder: Path, found: WorldSource, to: str) -> WorldSource:
    """Write into a folder that exists, and open that again."""
    config, logvar = found.config, found.learned_uncertainty
    if to == "ours":
        write_ours(folder, config, found.ours, learned_uncertainty=logvar)
        return open_world(folder)
    if to == "diffusers":
        write_pipeline(folder, config, found.ours, learned_uncertainty=logvar)
        return open_world(folder)
    (folder / ARGUMENTS).write_text(json.dumps(official_arguments(config), indent=2) + "\n")
    entries = table(config, learned_uncertainty=logvar)
    file = folder / {"official": "model.pt", "training": "iter_000000000_reg_model.pt"}[to]
    write_pickle(file, official_tensors(entries, found.ours, config.num_heads))
    return open_world(file)


def _require_same_tensors(found: WorldSource, result: WorldSource) -> None:
    """Bit for bit, in the same number format, under our names."""
    if found.config != result.config:
        raise ConfigError(
            f"{found.path}, converted, is of another architecture: {result.config} instead of {found.config}; nothing "
            "was written: report this"
        )
    for name, described in found.ours.meta.items():
        if not _is_same(found.ours.read(name), result.ours.read(name)):
            raise ConfigError(
                f"{found.path}, converted, differs in {name} {list(described.shape)}; nothing was written: report this"
            )


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Of a NaN too: the bytes decide."""
    return a.dtype == b.dtype and torch.equal(*(x.contiguous().view(-1).view(torch.uint8) for x in (a, b)))


def _compare(found: WorldSource, result: WorldSource) -> WorldConversion:
    (output, u, how), (output_back, u_back, how_back) = outputs(found), outputs(result)
    difference = (output - output_back).abs().max().item()
    scale = max(1.0, output.abs().max().item())
    if u is not None and u_back is not None:
        difference = max(difference, (u - u_back).abs().max().item())
    if not difference <= TOLERANCE * scale:  # a NaN is no agreement either
        raise ConfigError(
            f"{found.path}, converted, does not compute what it did: outputs of up to {scale:.3g} differ by "
            f"{difference:.3g}, the limit is {TOLERANCE:g} of that; nothing was written. If its architecture is not "
            f"{found.config}, say so with --arguments"
        )
    _, _, *size = FixedInput.of(found.config).x_BCTHW.shape
    peers = [one for one in (how, how_back) if one != "the weights as read"]
    return WorldConversion(
        layout=found.layout,
        config=found.config,
        learned_uncertainty=found.learned_uncertainty,
        num_parameters=found.num_parameters,
        compared_with=" and ".join(peers) or how,
        size_THW=(size[0], size[1], size[2]),
        difference=difference,
        notes=tuple(found.notes),
    )
