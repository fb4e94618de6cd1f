"""State dicts out of other projects' pickles, read with weights_only so that a file cannot run code.

A file of torch's zip format is mapped, not read: a tensor costs memory while it is used.
"""

import contextlib
import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.weight_file import AGAIN, is_compressed, kind_of

CONTAINERS = ("model", "state_dict", "module", "network", "model_state_dict")
PLAIN_MODULES = {"torch", "torch._utils", "torch.storage", "torch.serialization", "torch._tensor"}
"""Where the classes and functions come from of which torch makes a state dict of tensors."""
PLAIN_GLOBALS = {
    *("collections.OrderedDict", "collections.Counter"),
    *("_codecs.encode", "_io.BytesIO", "torch.nn.parameter.Parameter", "__builtin__.set", "builtins.set"),
    *("__builtin__.bytearray", "builtins.bytearray", "__builtin__.complex", "builtins.complex"),
}
NUM_SHOWN = 5
"""Foreign classes that an error names."""
NUM_PICKLES = 4
"""Formerly torch.save wrote a number, a version, the machine and then the object, each pickled."""
READ_PROTOCOL = 2
DAMAGED = "it is damaged, or not of torch.save"


def load_pickle(path: Path) -> Any:
    """What torch.save wrote. TokenizerError where it is damaged, or holds more than tensors and plain values.

    io.BytesIO is let through: TransformerEngine keeps `_extra_state` in it, and bytes can do nothing.
    """
    kind = kind_of(path)
    if kind not in ("zip", "pickles"):
        raise TokenizerError(f"{path} is a file of {kind}, and one of torch.save is needed here; name another")
    is_mapped = kind == "zip" and not is_compressed(path) and path.suffix != ".safetensors"  # torch trusts that name
    try:
        with torch.serialization.safe_globals([io.BytesIO]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it is told below, where it matters
            if is_mapped:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TokenizerError(f"{path} {_why_not_read(path)}") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = first_line(error) if kind == "zip" else DAMAGED
        raise TokenizerError(f"{path} cannot be read: {reason}; {AGAIN}") from error


def foreign_names(path: Path) -> list[str]:
    """Classes and functions that a file of torch.save names and that no state dict of tensors needs, sorted.

    Nothing of them is imported.
    """
    if zipfile.is_zipfile(path):
        try:
            with torch.serialization.safe_globals([io.BytesIO]):
                return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except pickle.UnpicklingError:  # of a protocol that torch does not look into
            pass
    found = {name for name in _globals_of(path) if name not in PLAIN_GLOBALS}
    return sorted(name for name in found if name.rpartition(".")[0] not in PLAIN_MODULES)


def _why_not_read(path: Path) -> str:
    """What is wrong with a file of torch.save that holds more than weights_only lets through, and what to do."""
    if foreign := foreign_names(path):
        more = f" and {len(foreign) - NUM_SHOWN} others" if len(foreign) > NUM_SHOWN else ""
        return (
            f"holds objects of {', '.join(foreign[:NUM_SHOWN])}{more} and is not read, since a pickle can run code; "
            "load it where these are installed and save its state dict alone, with torch.save(model.state_dict(), FILE)"
        )
    with _pickle_of(path) as file:
        protocol = file.read(2)[-1]
    if protocol > READ_PROTOCOL:
        return (
            f"is pickled by protocol {protocol}, and only {READ_PROTOCOL} is read, without running code; save its "
            "state dict again with torch.save(model.state_dict(), FILE)"
        )
    return f"cannot be read: {DAMAGED}; {AGAIN}"


@contextlib.contextmanager
def _pickle_of(path: Path) -> Iterator[IO[bytes]]:
    """The pickle, or the first of several in a row, in a file of torch.save."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        yield io.BytesIO(archive.read(name))


def _globals_of(path: Path) -> set[str]:
    """Dotted names of all classes and functions in a file's pickles."""
    names: set[str] = set()
    with _pickle_of(path) as file:
        for _ in range(NUM_PICKLES):
            try:
                names |= set(_globals_in(file))
            except ValueError:  # what follows is no pickle: all that there was is known
                break
    return names


def _globals_in(file: IO[bytes]) -> Iterator[str]:
    """Dotted names in the next pickle of a file; those that stand on the stack are its last two texts."""
    texts, memo, latest = [""], dict[int, str | None](), None
    for operation, argument, _ in pickletools.genops(file):
        match operation.name:
            case "GLOBAL":
                yield str(argument).replace(" ", ".")
            case "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                memo[len(memo) if argument is None else int(argument)] = latest
                continue
            case "BINUNICODE" | "SHORT_BINUNICODE":
                latest = str(argument)
                texts.append(latest)
                continue
            case "BINGET" | "LONG_BINGET":
                latest = memo.get(int(argument or 0))
                texts += [] if latest is None else [latest]
                continue
        latest = None


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
