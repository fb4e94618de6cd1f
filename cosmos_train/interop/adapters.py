"""What adapters are of, how strong they are, and a world model with them in it, a tensor at a time.

A run with `lora.rank` trains adapters (`parallel/lora.py`) on a model that lies elsewhere and stays as it is. Its
checkpoints hold what it trains, and in `adapters.json` how strong the adapters are and which tensors they are of, by
digest. So neither another strength nor another model is ever taken for theirs without a word. Whoever opens such a
checkpoint finds a world model of plain matrices, W + alpha / r B A.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names import Entry
from cosmos_train.interop.stores import TensorStore
from cosmos_train.parallel.lora import NAME

FILE = "adapters.json"
"""It lies in the run's folder and in each of its checkpoints."""
FORMAT = "cosmos-train adapters 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFacts:
    """What weights of adapters do not say of themselves."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str
    """Where the model lay, as lora.base had it."""
    base_tensors: Mapping[str, str]
    """Digests of the model's tensors, by our names."""

    @property
    def scale(self) -> float:
        """Return the factor on B A."""
        return self.alpha / self.rank

    def to_json(self) -> str:
        """Return the text of adapters.json."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "AdapterFacts":
        """Read what lies in a folder. Raises ConfigError where it is not there, or of another format."""
        path = folder / FILE
        if not path.is_file():
            raise ConfigError(f"{folder} has adapters and no {FILE}, which says how strong they are; restore it")
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format", None) != FORMAT:
            raise ConfigError(f"{path} is not of format {FORMAT!r}; use a newer cosmos-train")
        return cls(**values | {"targets": tuple(values["targets"])})


class DigestedTensors:
    """A TensorStore that notes the digest of whatever is read out of another one."""

    def __init__(self, store: TensorStore) -> None:
        self.store, self.meta = store, store.meta
        self.digests = dict[str, str]()

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the CPU."""
        tensor = self.store.read(name)
        self.digests[name] = tensor_digest(tensor)
        return tensor


class AdaptedTensors:
    """A TensorStore of the model with its adapters in it, put together a tensor at a time."""

    def __init__(
        self, base: TensorStore, trained: TensorStore, facts: AdapterFacts, entries: Sequence[Entry], *, base_path: Path
    ) -> None:
        """trained: the adapters and all else that is not the base's, under our names."""
        self.base, self.trained, self.facts, self.base_path = base, trained, facts, base_path
        self.entries = {entry.ours: entry for entry in entries}
        self.meta = {name: self._holder(name).meta[name] for name in self.entries if name in self._known()}

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the CPU, in the number format that it has without its adapter.

        Raises:
            ConfigError: the base has another tensor of this name than the adapters were trained on.
        """
        tensor = self._holder(name).read(name)
        wanted = self.facts.base_tensors.get(name)
        if name not in self.trained.meta and tensor_digest(tensor) != wanted:
            raise ConfigError(
                f"{self.base_path} is not the model that these adapters were trained on, which lay at "
                f"{self.facts.base}: {name} differs; restore that model"
            )
        layer = name.removesuffix(".weight")
        if f"{layer}.{NAME}.a" not in self.trained.meta:
            return tensor
        a, b = (self.trained.read(f"{layer}.{NAME}.{part}") for part in "ab")
        added = self.facts.scale * product(a.float(), b.float(), self.entries[name])
        return (tensor.float() + added).to(tensor.dtype)

    def _known(self) -> set[str]:
        return self.base.meta.keys() | self.trained.meta.keys()

    def _holder(self, name: str) -> TensorStore:
        return self.trained if name in self.trained.meta else self.base


def product(a: Tensor, b: Tensor, entry: Entry) -> Tensor:
    """B A of a linear layer, [d_out, d_in]; of several that lie together in one matrix, each one's own.

    Args:
        a: [P r, d_in], of P matrices.
        b: [d_out, r], its rows in turns as the matrix has them.
        entry: says which matrices lie together.
    """
    rows = entry.rows_a_turn
    parts = []
    for part_of_a, part_of_b in zip(a.chunk(len(rows)), b.unflatten(0, (entry.turns, -1)).split(rows, 1), strict=True):
        parts.append(part_of_b @ part_of_a)  # [turns, rows, d_in]
    return torch.cat(parts, dim=1).flatten(0, 1)


def tensor_digest(tensor: Tensor) -> str:
    """Return a digest of a tensor's type, shape and values."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    found.update(values.data)
    return found.hexdigest()
