"""A tokenizer on disk: one folder, complete under its name or absent.

    config.json                     {"format", "config": the fields of TokenizerConfig, "metadata": anything}
    model.safetensors               the weights, in the released naming (see `model`)
    latent_statistics.safetensors   of windows of video; optional, see `whitening`
    image_latent_statistics.safetensors   of single images; optional

The folder is written under a temporary name beside its place and renamed when whole; an existing one is never changed.
`tokenizer_digest` identifies what latents mean: two folders with equal digests encode alike.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.number_formats import require_finite, require_float
from cosmos_tok.weights import load_weights
from cosmos_tok.whitening import LatentStatistics, save_statistics
from cosmos_tok.whole_file import whole_folder

FORMAT = "cosmos-tok 1"
CONFIG, WEIGHTS, STATISTICS = "config.json", "model.safetensors", "latent_statistics.safetensors"
IMAGE_STATISTICS = "image_latent_statistics.safetensors"
NUM_SHOWN = 3  # differing tensors that an error names


def save_tokenizer(
    folder: Path,
    model: CausalVideoTokenizer,
    config: TokenizerConfig,
    metadata: Mapping[str, Any],
    *,
    statistics: LatentStatistics | None = None,
    image_statistics: LatentStatistics | None = None,
) -> None:
    """Write a new folder. `metadata` is free JSON, e.g. what the tokenizer was trained on.

    TokenizerError if the folder exists or `config` is not the model's.
    """
    folder = Path(folder)
    if folder.exists():
        raise TokenizerError(f"{folder} exists already; remove it or save under another name")
    if config != model.config:
        raise TokenizerError(f"the config to save, {config}, is not the model's, {model.config}; pass model.config")
    document = {"format": FORMAT, "config": dataclasses.asdict(config), "metadata": dict(metadata)}
    with whole_folder(folder) as aside:
        aside.mkdir(parents=True)
        (aside / CONFIG).write_text(json.dumps(document, indent=2) + "\n")
        save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, aside / WEIGHTS)
        for name, found in ((STATISTICS, statistics), (IMAGE_STATISTICS, image_statistics)):
            if found is not None:
                save_statistics(aside / name, found)


def load_tokenizer(folder: Path | str) -> tuple[CausalVideoTokenizer, TokenizerConfig]:
    """The model, on the CPU in the stored dtype and in eval mode, and its config.

    TokenizerError if a file is missing or damaged, or the weights are not those of the config's architecture; that it
    is a NotFiniteError says that they are, and hold NaN or infinity.
    """
    folder = Path(folder)
    config, _ = _read_config(folder)
    weights = load_weights(folder / WEIGHTS)
    with torch.device("meta"):
        model = CausalVideoTokenizer(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    remedy = "use the config that the weights were trained with"
    require_same_tensors(str(folder / WEIGHTS), f"the architecture in {CONFIG}", expected, weights, remedy)
    # In memory of their own, which torch aligns. In a file they lie at any address, and on some processors a product's
    # last digits depend on that: what was kept with one tokenizer would differ from what an equal one computes.
    model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    return model.eval(), config


def load_config(folder: Path | str) -> TokenizerConfig:
    """Return the architecture alone, without reading weights. TokenizerError if it cannot be read."""
    return _read_config(Path(folder))[0]


def load_metadata(folder: Path | str) -> dict[str, Any]:
    """The free JSON that `save_tokenizer` was given. TokenizerError if the config cannot be read."""
    folder = Path(folder)
    _read_config(folder)
    return dict(json.loads((folder / CONFIG).read_text()).get("metadata", {}))


def tokenizer_digest(folder: Path) -> str:
    """sha256, in hex, of the architecture and the weights; names, metadata and statistics do not count."""
    folder = Path(folder)
    _, fields = _read_config(folder)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    try:
        with (folder / WEIGHTS).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise TokenizerError(f"{folder / WEIGHTS} cannot be read: {error}; copy the tokenizer again") from error
    return digest.hexdigest()


def _read_config(folder: Path) -> tuple[TokenizerConfig, dict[str, Any]]:
    """The config, and its fields as they stand in the file, which a later version with more fields leaves alone."""
    path = folder / CONFIG
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
        stored = document["config"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return TokenizerConfig(**fields), stored
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error}; name the folder of a saved tokenizer") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{path} is not a tokenizer's config: {error!r}; copy the tokenizer again") from error


def require_same_tensors(
    where: str, what: str, expected: Mapping[str, torch.Size], found: Mapping[str, torch.Tensor], remedy: str
) -> None:
    """TokenizerError that names the first tensors in which the weights at `where` differ from `what`.

    They are what a network is filled with, so their numbers must be weights' too, and finite.
    """
    for name in sorted(expected.keys() & found.keys()):
        require_float(name, found[name], where)
    differences = []
    for name in sorted(expected.keys() | found.keys()):
        wanted = list(expected[name]) if name in expected else "absent"
        given = list(found[name].shape) if name in found else "absent"
        if wanted != given:
            differences.append(f"{name}: {given} in the file, {wanted} in {what}")
    if differences:
        more = f"; and {len(differences) - NUM_SHOWN} more" if len(differences) > NUM_SHOWN else ""
        shown = "; ".join(differences[:NUM_SHOWN])
        raise TokenizerError(f"{where} does not fit {what}: {shown}{more}; {remedy}")
    for name, tensor in found.items():
        require_finite(name, tensor, where)
