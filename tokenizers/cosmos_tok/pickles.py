"""State dicts out of other projects' pickles, read with weights_only so that a file cannot run code.

A file of torch's zip format is mapped, not read: a tensor costs memory while it is used.
"""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_tok.config import TokenizerError

CONTAINERS = ("model", "state_dict", "module", "network", "model_state_dict")


def load_pickle(path: Path) -> Any:
    """What torch.save wrote. TokenizerError where it is damaged, or holds more than tensors and plain values.

    io.BytesIO is let through: TransformerEngine keeps `_extra_state` in it, and bytes can do nothing.
    """
    try:
        with torch.serialization.safe_globals([io.BytesIO]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise TokenizerError(
            f"{path} holds more than tensors, or is damaged, and is not read, since a pickle can run code: "
            f"{first_line(error)}; save its state dict alone, or copy the file again"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise TokenizerError(f"{path} cannot be read: {first_line(error)}; copy the file again") from error


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a pickle, or in the first of CONTAINERS inside it; whatever else it holds is left out."""
    stored = load_pickle(path)
    for _ in range(3):
        if isinstance(stored, Mapping) and not any(isinstance(value, Tensor) for value in stored.values()):
            stored = next((stored[key] for key in CONTAINERS if isinstance(stored.get(key), Mapping)), stored)
    if not isinstance(stored, Mapping):
        raise TokenizerError(f"{path} holds a {type(stored).__name__}, not a state dict; name a model's checkpoint")
    return {str(name): tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)}


def first_line(error: BaseException) -> str:
    """What an error says, without the lines after its first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
