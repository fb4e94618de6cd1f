"""Tensors under our names and under NVIDIA's, whatever the world model: how one is made of the others.

Ours differ from the released ones in that matrices which see the same input lie together in one, in turns of rows: a
head's queries, keys and values, or gate and value of an MLP. Which those are, `names_dit` and `names_ar` tell.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok.number_formats import require_float
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.stores import TensorStore

NUM_SHOWN = 3
"""Differing tensors that an error names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of ours, and the official ones that it is made of."""

    ours: str
    official: Mapping[str, tuple[int, ...]]
    """Names and shapes of one, or of those that lie together in ours."""
    turns: int = 1
    """So often their rows take turns in ours: a block of the first's, one of the second's, and again."""
    padding: tuple[int, ...] = ()
    """So many zeros ours has after each official tensor, along its dimensions; none by default."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of ours."""
        shapes = [self._padded(shape) for shape in self.official.values()]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    @property
    def rows_a_turn(self) -> list[int]:
        """So many rows of each official tensor follow each other in ours."""
        return [self._padded(shape)[0] // self.turns for shape in self.official.values()]

    def join(self, parts: list[Tensor]) -> Tensor:
        """The official tensors -> ours."""
        if self.padding:
            before_and_after = list[int]()  # F.pad wants both of each dimension, from the last one on
            for more in reversed(self.padding):
                before_and_after += [0, more]
            parts = [F.pad(part, before_and_after) for part in parts]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part.unflatten(0, (self.turns, -1)) for part in parts], dim=1).flatten(0, 1)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """The inverse of `join`."""
        turns = tensor.unflatten(0, (self.turns, -1))
        parts = [part.flatten(0, 1) for part in turns.split(self.rows_a_turn, dim=1)]
        if not self.padding:
            return parts
        return [part[tuple(map(slice, shape))] for part, shape in zip(parts, self.official.values(), strict=True)]

    def _padded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not self.padding:
            return shape
        return tuple(size + more for size, more in zip(shape, self.padding, strict=True))


class OurTensors:
    """A world model's tensors under our names, out of a store under official ones. A TensorStore itself."""

    def __init__(self, store: TensorStore, entries: list[Entry]) -> None:
        self.store = store
        self.entries = {entry.ours: entry for entry in entries}
        self.meta = {name: self._joined(entry, store.meta.__getitem__) for name, entry in self.entries.items()}

    def read(self, name: str) -> Tensor:
        """One tensor of ours, put together."""
        return self._joined(self.entries[name], self.store.read)

    @staticmethod
    def _joined(entry: Entry, read: Callable[[str], Tensor]) -> Tensor:
        return entry.join([read(name) for name in entry.official])


def official_meta(entries: list[Entry], ours: TensorStore) -> dict[str, Tensor]:
    """Shape and type of every official tensor, as `official_tensors` yields them."""
    found = dict[str, Tensor]()
    for entry in entries:
        dtype = ours.meta[entry.ours].dtype
        for name, shape in entry.official.items():
            found[name] = torch.empty(shape, dtype=dtype, device="meta")
    return found


def official_tensors(entries: list[Entry], ours: TensorStore) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors as in an official file, one of ours at a time."""
    for entry in entries:
        yield from zip(entry.official, entry.split(ours.read(entry.ours)), strict=True)


def official_shapes(entries: list[Entry]) -> dict[str, tuple[int, ...]]:
    """Official name -> shape."""
    found = dict[str, tuple[int, ...]]()
    for entry in entries:
        found |= entry.official
    return found


def require_tensors(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """ConfigError that names the first tensors by which a file differs from its architecture.

    TokenizerError where one is of a number format that weights do not have: packed, its shape would say nothing.
    """
    for name in sorted(expected.keys() & found.keys()):
        require_float(name, found[name], where)
    differences = []
    for name in sorted(expected.keys() | found.keys()):
        wanted = _shape(expected.get(name))
        given = _shape(tuple(found[name].shape) if name in found else None)
        if wanted != given:
            differences.append(f"{name}: {given} in the file, {wanted} in the architecture")
    if differences:
        more = f"; and {len(differences) - NUM_SHOWN} more" if len(differences) > NUM_SHOWN else ""
        raise ConfigError(
            f"{where} is not the world model that its tensors and --arguments describe: "
            f"{'; '.join(differences[:NUM_SHOWN])}{more}; pass the arguments of its constructor, or take another file"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
