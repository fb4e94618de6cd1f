"""The door for files of weights, whoever wrote them: named tensors, read one at a time, in the numbers that they mean.

A file is what its first bytes say (`weight_file`), its numbers are weights' or are refused by name (`number_formats`):

    safetensors, or several of them that an index (*.index.json) names
    torch.save's files, read without running code (`pickles`)

TorchScript has a door of its own, `torchscript`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.number_formats import (
    COMPANIONS,
    EIGHT_BITS,
    MARKER,
    dequantised,
    names_beside,
    require_finite,
    require_unpacked,
    scales_of,
)
from cosmos_tok.pickles import load_state_dict
from cosmos_tok.weight_file import AGAIN, kind_of, refuse_stand_in

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
}
"""Number formats as safetensors calls them."""


class _StoredTensors(Protocol):
    """The tensors of one file, as they are stored."""

    path: Path

    @property
    def meta(self) -> Mapping[str, Tensor]: ...

    def read(self, name: str) -> Tensor: ...


class Weights:
    """Named tensors of one file or of several. 8-bit floats with a scale are the float32 that they mean."""

    def __init__(self, files: Sequence[_StoredTensors], where: str) -> None:
        """where: the file, or what names them all. TokenizerError where weights are packed in an unknown way."""
        self._files = dict[str, _StoredTensors]()
        for file in files:
            self._files |= dict.fromkeys(file.meta, file)
        stored = {name: file.meta[name] for name, file in self._files.items()}
        require_unpacked(list(stored), where)
        self._scales = scales_of(stored, where)
        meant = {name: _like(stored[name], torch.float32) for name in self._scales}
        left_out = {*self._scales.values()}
        for name in self._scales:
            left_out.update(names_beside(name, COMPANIONS))
        left_out |= {name for name in stored if MARKER.fullmatch(name) and stored[name].dtype in EIGHT_BITS}
        self.meta = {name: meant.get(name, tensor) for name, tensor in stored.items() if name not in left_out}
        """Shape and number format of each tensor as it is read, on the meta device."""

    @property
    def scaled(self) -> list[str]:
        """The names of those that are stored in 8 bits with a scale."""
        return list(self._scales)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, perhaps mapped. NotFiniteError where it holds NaN or infinity."""
        tensor = self.read_unchecked(name)
        require_finite(name, tensor, str(self._files[name].path))
        return tensor

    def read_unchecked(self, name: str) -> Tensor:
        """The same, whatever its numbers are: it may be none that is used."""
        stored = self._files[name].read(name)
        if name not in self._scales:
            return stored
        scale = self._scales[name]
        return dequantised(stored, self._files[scale].read(scale), f"{self._files[scale].path}: {scale}")


def open_weights(path: Path) -> Weights:
    """The tensors of a file of any kind but TorchScript, or of all files that an index names.

    TokenizerError names a file that is missing, damaged or something else than weights, what it is, and the remedy.
    """
    if path.suffix != ".json":
        return Weights([_open(path)], str(path))
    refuse_stand_in(path)
    shards = [path.parent / name for name in sorted(set(_read_index(path).values()))]
    missing = [shard.name for shard in shards if not shard.exists() and not shard.is_symlink()]
    if missing:
        raise TokenizerError(
            f"{path} names {len(shards)} shards, and {len(missing)} of them are missing, first {missing[0]}; "
            "copy the folder again, or fetch the file"
        )
    return Weights([_open(shard) for shard in shards], str(path.parent))


def load_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, of which some may be no weights: `number_formats` checks those that are used."""
    weights = open_weights(path)
    return {name: weights.read_unchecked(name) for name in weights.meta}


def _open(path: Path) -> _StoredTensors:
    kind = kind_of(path)
    if kind == "torchscript":
        raise TokenizerError(f"{path} is a TorchScript archive, and a file of named tensors is needed here; name one")
    return _Safetensors(path) if kind == "safetensors" else _Pickled(path)


class _Pickled:
    """A file of torch.save, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.tensors = path, load_state_dict(path)
        for name, tensor in self.tensors.items():
            _require_plain(name, tensor, path)
        self.meta = {name: _like(tensor, tensor.dtype) for name, tensor in self.tensors.items()}

    def read(self, name: str) -> Tensor:
        """The mapped tensor."""
        return self.tensors[name]


class _Safetensors:
    """One file of safetensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta: dict[str, Tensor] = {}
        header, start = _read_header(path)
        end = start
        for name, described in header.items():
            if name == "__metadata__":
                continue
            try:
                code, shape, (_, last) = described["dtype"], described["shape"], described["data_offsets"]
                end = max(end, start + last)
            except (KeyError, TypeError, ValueError) as error:
                raise TokenizerError(f"{path} cannot be read: its header is damaged at {name}; {AGAIN}") from error
            if code not in DTYPES:
                raise TokenizerError(
                    f"{path}: {name} is in the number format {code}, which is not known here; take the weights as "
                    "float32, bfloat16 or float16"
                )
            self.meta[name] = torch.empty(shape, dtype=DTYPES[code], device="meta")
        size = path.stat().st_size
        if end > size:
            raise TokenizerError(f"{path} cannot be read: it is cut off, at {size:,} of its {end:,} bytes; {AGAIN}")
        self._read_with_library([])  # it looks at what else may be wrong

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._read_with_library([name])[0]

    def _read_with_library(self, names: Sequence[str]) -> list[Tensor]:
        try:
            with safe_open(self.path, "pt") as file:
                return [file.get_tensor(name) for name in names]
        except (OSError, SafetensorError, UnicodeError) as error:
            raise TokenizerError(f"{self.path} cannot be read: {error}; {AGAIN}") from error


def _read_header(path: Path) -> tuple[dict[str, dict], int]:
    """(what a file of safetensors says of its tensors, where the first one begins)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if 8 + num_bytes > size:
            raise TokenizerError(
                f"{path} cannot be read: it is cut off, at {size:,} bytes within its header of {num_bytes:,}; {AGAIN}"
            )
        try:
            header = json.loads(file.read(num_bytes))
        except ValueError as error:
            raise TokenizerError(f"{path} cannot be read: its header is no JSON ({error}); {AGAIN}") from error
    if not isinstance(header, dict):
        raise TokenizerError(f"{path} cannot be read: its header is no JSON object; {AGAIN}")
    return header, 8 + num_bytes


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        return {str(name): str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{path} is not an index of safetensors: {error!r}; copy the folder again") from error


def _require_plain(name: str, tensor: Tensor, path: Path) -> None:
    """TokenizerError where a pickled tensor is none of numbers in rows."""
    what = "quantised" if tensor.is_quantized else "sparse" if tensor.layout != torch.strided else ""
    what = "without values (of the meta device)" if tensor.is_meta else what
    if what:
        kind = f"{what} tensor of {str(tensor.dtype).removeprefix('torch.')}"
        raise TokenizerError(f"{path}: {name} is a {kind}, which is no weight here; save it as a plain float tensor")


def _like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(tensor.shape, dtype=dtype, device="meta")
