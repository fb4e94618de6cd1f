"""What NVIDIA's files of both kinds of world model have in common; `official_dit` and `official_ar` know the kinds.

Sizes are read off the tensors. What none of them tells comes from the arguments of the official constructor where they
are given, and its own defaults where those are silent. Without any arguments it is what the released models have.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cosmos_tok.number_formats import require_float
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.names import Entry
from cosmos_train.interop.stores import TensorStore
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig

WRAPPERS = re.compile(r"_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.|_orig_mod\.|^module\.")
"""What wrappers put into names."""


@dataclass(frozen=True)
class OfficialFile:
    """An official file with its tensors under the names of model.pt. A TensorStore."""

    store: TensorStore
    stored_names: Mapping[str, str]
    meta: Mapping[str, Tensor]
    config: DiTConfig | WorldARConfig
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    def read(self, name: str) -> Tensor:
        """One tensor; the kernel of a patch convolution, which old training code has, as the matrix that it is."""
        return flat(self.store.read(self.stored_names[name]))


def flat(tensor: Tensor) -> Tensor:
    """A patch convolution's kernel [D, C, 1, p, p] as a matrix; all else as it is."""
    return tensor.flatten(1) if tensor.ndim == 5 else tensor


@dataclass(frozen=True)
class Sizes:
    """Shapes of tensors that a kind of world model has."""

    meta: Mapping[str, Tensor]
    where: str
    kind: str

    def of(self, name: str) -> tuple[int, ...]:
        """Its shape. ConfigError where there is none such, TokenizerError where it is no weight's number format."""
        if name not in self.meta:
            raise ConfigError(f"{self.where} has no {name}: it is no {self.kind} world model of the Cosmos kind")
        require_float(name, self.meta[name], self.where)
        return tuple(self.meta[name].shape)


def check_arguments(
    given: Mapping[str, Any],
    derived: Mapping[str, Any],
    where: str,
    notes: list[str],
    *,
    expected: Mapping[str, Any],
    no_effect: Container[str],
) -> None:
    """What was given must be what the tensors have. Unknown arguments are noted.

    Args:
        expected: arguments that are only known with one value: what the released models have.
        no_effect: arguments that do not change the network's function here.
    """
    for key, value in given.items():
        if key in no_effect:
            continue
        if key in expected and value != expected[key]:
            raise ConfigError(
                f"{where}: the argument {key}={value} makes another network than the released ones; only "
                f"{key}={expected[key]} can be converted"
            )
        if key not in derived:
            notes.append(f"the argument {key} is not known here and left aside")
        elif derived[key] != value:
            raise ConfigError(
                f"{where}: its tensors say {key}={derived[key]}, the arguments {key}={value}; "
                "pass the arguments that the checkpoint was made with"
            )


def prefixes(stored: Iterable[str], first: re.Pattern[str]) -> set[str]:
    """What stands before the name of a network's first tensor, of each network in a file."""
    return {match[1] for name in stored if (match := first.fullmatch(name))}
