"""Tensors on disk, read one at a time: files of weights (`cosmos_tok.weights`) and distributed checkpoints of ours.

A store knows names, shapes and types before it reads anything (`meta`), so that what is read and written never has to
fit into memory at once. The writers here need no more than the largest tensor either.
"""

import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed

from cosmos_tok.number_formats import require_finite
from cosmos_tok.weights import DTYPES
from cosmos_train.config.errors import ConfigError
from cosmos_train.train.checkpoint.metadata import PlainReader

MAX_SHARD_BYTES = 5 * 2**30
"""A file of safetensors is closed before it grows beyond this, as diffusers and transformers do."""


class TensorStore(Protocol):
    """Named tensors, read when they are asked for."""

    @property
    def meta(self) -> Mapping[str, Tensor]:
        """Shape and type of each tensor, on the meta device."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU. NotFiniteError where it holds NaN or infinity."""
        ...


class CheckpointStore:
    """The weights in a checkpoint of a run, whatever layout wrote it, or their moving average; in one process."""

    def __init__(self, folder: Path, *, averaged: bool) -> None:
        self.folder, self.reader, self.keys = folder, PlainReader(folder), dict[str, str]()
        described = self.reader.read_metadata().state_dict_metadata
        for kind in ("model", "ema") if averaged else ("model",):  # buffers have no average
            names = {key: key.removeprefix(f"{kind}.") for key in described if key.startswith(f"{kind}.")}
            if kind == "ema" and not names:
                raise ConfigError(f"{folder} has no moving average; convert it with --weights network")
            self.keys |= {name: key for key, name in names.items()}
        self.meta: dict[str, Tensor] = {}
        for name, key in self.keys.items():
            entry = described[key]
            assert isinstance(entry, TensorStorageMetadata), f"{key} is no tensor"
            self.meta[name] = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")

    def read(self, name: str) -> Tensor:
        """One tensor, put together from the ranks' parts."""
        tensor = torch.empty_like(self.meta[name], device="cpu")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as asked for
            load_distributed({self.keys[name]: tensor}, storage_reader=self.reader, no_dist=True)
        require_finite(name, tensor, str(self.folder))
        return tensor


def write_safetensors(
    folder: Path, stem: str, meta: Mapping[str, Tensor], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """`tensors`, in the order of `meta`, into stem.safetensors, or into shards with an index where they are many.

    The format (a length, a JSON header, the bytes) is written here, because the library's writer wants all at once.
    """
    shards = _plan_shards(meta)
    names = [
        f"{stem}{f'-{i + 1:05d}-of-{len(shards):05d}' * (len(shards) > 1)}.safetensors" for i in range(len(shards))
    ]
    incoming = iter(tensors)
    for shard, file_name in zip(shards, names, strict=True):
        with (folder / file_name).open("wb") as file:
            _write_header(file, {name: meta[name] for name in shard})
            for name in shard:
                found, tensor = next(incoming)
                assert found == name and tensor.shape == meta[name].shape, f"{found} comes where {name} is expected"
                file.write(tensor.to(meta[name].dtype).contiguous().view(-1).view(torch.uint8).numpy().data)
    if len(shards) > 1:
        weight_map = dict[str, str]()
        for shard, file_name in zip(shards, names, strict=True):
            weight_map |= dict.fromkeys(shard, file_name)
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in meta.values())}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_pickle(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """A state dict of torch.save. Meanwhile its tensors lie in files, mapped, so that none stays in memory."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tensors-") as folder:
        mapped: dict[str, Tensor] = {}
        for number, (name, tensor) in enumerate(tensors):
            file = Path(folder) / str(number)
            file.write_bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            flat = torch.from_file(str(file), shared=False, size=tensor.numel(), dtype=tensor.dtype)
            mapped[name] = flat.view(tensor.shape)
        torch.save(mapped, path)


def find_safetensors(folder: Path, stem: str) -> Path | None:
    """The index or the only file of `stem` in a folder, or None where there is neither."""
    candidates = (folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors")
    return next((path for path in candidates if path.is_file()), None)


def _plan_shards(meta: Mapping[str, Tensor]) -> list[list[str]]:
    shards, size = [[]], 0
    for name, tensor in meta.items():
        if shards[-1] and size + tensor.nbytes > MAX_SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _write_header(file: BinaryIO, meta: Mapping[str, Tensor]) -> None:
    """8 bytes of length, then JSON of every tensor's type, shape and place; padded so that the numbers are aligned."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, dict[str, object]] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in meta.items():
        place = [start, start + tensor.nbytes]
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        start += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
