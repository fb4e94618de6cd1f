"""Tensor-parallel shards of an official autoregressive checkpoint: X_model_mp_{rank}.pt instead of X.pt."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names_ar import divided_dim
from cosmos_train.interop.stores import TensorStore, write_pickle

SHARD = re.compile(r"(.*model_mp_)(\d+)\.pt")


def shards_beside(file: Path) -> list[Path]:
    """All shards of the checkpoint that a file is one of, by rank; none where it is no shard.

    ConfigError where one between the first and the last is missing; the last ones' absence no file tells.
    """
    match = SHARD.fullmatch(file.name)
    if match is None:
        return []
    matches = [SHARD.fullmatch(one.name) for one in file.parent.iterdir()]
    ranks = sorted(int(found[2]) for found in matches if found is not None and found[1] == match[1])
    if ranks != list(range(len(ranks))):
        raise ConfigError(f"{file.parent} has the shards {ranks} of {match[1]}*.pt; copy those between, from 0 on")
    return [file.with_name(f"{match[1]}{rank}.pt") for rank in ranks]


class ShardStore:
    """The shards as one TensorStore."""

    def __init__(self, shards: list[TensorStore], where: Path) -> None:
        """ConfigError where they do not have the same tensors."""
        self.shards = shards
        names = shards[0].meta.keys()
        for rank, shard in enumerate(shards):
            if differing := sorted(names ^ shard.meta.keys()):
                raise ConfigError(f"{where}: shards 0 and {rank} differ in {differing[0]}; copy all of one checkpoint")
        self.meta = dict[str, Tensor]()
        for name in names:
            self.meta[name] = _join(name, [shard.meta[name] for shard in shards])

    def read(self, name: str) -> Tensor:
        """One tensor, put together. Norms, which drift apart in the official training, are the shards' mean."""
        return _join(name, [shard.read(name) for shard in self.shards])


def write_shards(file: Path, tensors: Callable[[], Iterator[tuple[str, Tensor]]], tp: int) -> Path:
    """The shards of `tp` ranks in place of `file`; `tensors` is gone through once for each. The first one's path."""
    paths = [file.with_name(f"{file.stem}_model_mp_{rank}.pt") for rank in range(tp)]
    for rank, path in enumerate(paths):
        write_pickle(path, ((name, _part(name, tensor, rank, tp)) for name, tensor in tensors()))
    return paths[0]


def _join(name: str, parts: list[Tensor]) -> Tensor:
    dim = divided_dim(name)
    if dim is not None:
        return torch.cat(parts, dim=dim)
    if parts[0].is_meta or all(torch.equal(parts[0], part) for part in parts):
        return parts[0]
    return torch.stack(parts).float().mean(dim=0).to(parts[0].dtype)


def _part(name: str, tensor: Tensor, rank: int, tp: int) -> Tensor:
    dim = divided_dim(name)
    return tensor if dim is None else tensor.chunk(tp, dim=dim)[rank]
