"""Adapters of a world model: what they are of, how strong they are, and the model with them in it, a tensor at a time.

A run with `lora.rank` trains adapters (`parallel/lora.py`) on a model that lies elsewhere and stays as it is. Its
checkpoints hold what it trains, and in `adapters.json` how strong the adapters are and which tensors they are of, by
digest. So neither another strength nor another model is ever taken for theirs without a word. Whoever opens such a
checkpoint finds a world model of plain matrices, W + alpha / r B A.

Here adapters are of NVIDIA's matrices, one of each, as all files of adapters have them (`adapter_files`). What several
of these are in ours, which lie together in one matrix, `names` tells.
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
    """Weights of a run's adapters do not say this of themselves."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str
    """The model lay here, as lora.base had it."""
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


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter of one matrix W, [d_out, d_in]: scale B A is added to it."""

    a: Tensor
    """A, [r, d_in]."""
    b: Tensor
    """B, [d_out, r]."""
    scale: float
    """alpha / r."""

    def product(self) -> Tensor:
        """Return what is added, [d_out, d_in], in fp32."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapters:
    """The adapters of one training, of matrices by their official names."""

    matrices: Mapping[str, LowRank]
    where: str
    """The path that they were read from."""
    strength: float = 1.0
    """Each product is multiplied by this besides."""

    def of(self, entry: Entry) -> Tensor | None:
        """Return what is added to a tensor of ours, in fp32; None where none of its matrices has an adapter."""
        if not entry.official.keys() & self.matrices.keys():
            return None
        parts = []
        for name, shape in entry.official.items():
            parts.append(self.matrices[name].product() if name in self.matrices else torch.zeros(shape))
        return self.strength * entry.join(parts)


def adapters_of_run(trained: TensorStore, facts: AdapterFacts, entries: Sequence[Entry], where: Path) -> Adapters:
    """Return the adapters of a run's checkpoint, `trained`, in which those of joined matrices lie together."""
    found = dict[str, LowRank]()
    for entry in entries:
        layer = f"{entry.ours.removesuffix('.weight')}.{NAME}"
        if f"{layer}.a" not in trained.meta:
            continue
        parts_of_a = trained.read(f"{layer}.a").chunk(len(entry.official))
        for name, a, b in zip(entry.official, parts_of_a, entry.split(trained.read(f"{layer}.b")), strict=True):
            found[name] = LowRank(a, b, facts.scale)
    return Adapters(matrices=found, where=str(where))


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


class TrainedOnBase:
    """A TensorStore of what a run with adapters trained besides them, and of its base where it did not."""

    def __init__(self, base: TensorStore, trained: TensorStore, facts: AdapterFacts, base_path: Path) -> None:
        self.base, self.trained, self.facts, self.base_path = base, trained, facts, base_path
        own = {name: tensor for name, tensor in trained.meta.items() if f".{NAME}." not in name}
        self.meta = {**base.meta, **own}

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the CPU.

        Raises:
            ConfigError: the base has another tensor of this name than the adapters were trained on.
        """
        if name in self.trained.meta:
            return self.trained.read(name)
        tensor = self.base.read(name)
        if tensor_digest(tensor) != self.facts.base_tensors.get(name):
            raise ConfigError(
                f"{self.base_path} is not the model that these adapters were trained on, which lay at "
                f"{self.facts.base}: {name} differs; restore that model"
            )
        return tensor


class AdaptedTensors:
    """A TensorStore of a model with adapters in it. Each tensor has the number format that it has without them."""

    def __init__(self, store: TensorStore, entries: Sequence[Entry], adapters: Sequence[Adapters]) -> None:
        self.store, self.meta, self.adapters = store, store.meta, adapters
        self.entries = {entry.ours: entry for entry in entries}

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the CPU; what is added to it is added in fp32, and it is rounded once."""
        tensor, entry = self.store.read(name), self.entries.get(name)
        added = [] if entry is None else [one.of(entry) for one in self.adapters]
        found = [one for one in added if one is not None]
        return (tensor.float() + torch.stack(found).sum(0)).to(tensor.dtype) if found else tensor


def tensor_digest(tensor: Tensor) -> str:
    """Return a digest of a tensor's type, shape and values."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    found = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    found.update(values.data)
    return found.hexdigest()
