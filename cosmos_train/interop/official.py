"""What NVIDIA's files of both kinds of world model have in common; `official_dit` and `official_ar` know the kinds.

Sizes are read off the tensors. What none of them tells comes from the arguments of the official constructor where they
are given, and its own defaults where those are silent. Without any arguments it is what the released models have.
"""

import re
from collections.abc import Collection, Iterable, Mapping
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
FEATURES = (
    (
        re.compile(r".*\b(view_embeddings|camera_embeddings?|repeat_frame_embedding|traj_embeddings?)\b.*"),
        "several views at once (multi-view)",
    ),
    (re.compile(r".*\btoken_embedder\b.*"), "codes of a discrete tokenizer as its condition (a diffusion decoder)"),
    (re.compile(r".*\baction_embed\w*\b.*"), "actions in another way than the released one"),
    (re.compile(r".*\baugment_sigma_emb\w*\b.*"), "the noise of the conditioning frames as its condition"),
    (re.compile(r".*\b(input_hint_block\w*|hint_encoders?|zero_blocks)\b.*"), "a control branch"),
    (re.compile(r".*\b(vision_encoder|mm_projector)\b.*"), "images as tokens (a vision encoder)"),
)
"""Names of tensors that a kind of official world model has which is not read here, and what it then does."""


@dataclass(frozen=True)
class OfficialFile:
    """An official file with its tensors under the names of model.pt. A TensorStore."""

    store: TensorStore
    stored_names: Mapping[str, str]
    meta: Mapping[str, Tensor]
    config: DiTConfig | WorldARConfig
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)
    untold: tuple[str, ...] = ()
    """Fields of the architecture that neither tensors nor arguments tell, and that are taken as released."""

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


def refuse_features(names: Iterable[str], where: str) -> None:
    """ConfigError that names what a file's network can do beyond the world models that are read here."""
    for name in names:
        for pattern, feature in FEATURES:
            if pattern.fullmatch(name):
                raise ConfigError(
                    f"{where} has {name}: its network takes {feature}, which no world model here does; "
                    "name a file without it"
                )


def check_arguments(
    given: Mapping[str, Any],
    derived: Mapping[str, Any],
    where: str,
    *,
    expected: Mapping[str, Any],
    no_effect: Collection[str],
) -> None:
    """What was given must be known, and what the tensors have. ConfigError otherwise.

    Args:
        expected: arguments that are only known with one value: what the released models have.
        no_effect: arguments that do not change the network's weights or function here.
    """
    known = {*derived, *expected, *no_effect}
    if unknown := [f"{key}={value}" for key, value in given.items() if key not in known]:
        raise ConfigError(
            f"{where}: unknown arguments {', '.join(unknown)}; known are {', '.join(sorted(known))}. Leave out what "
            "does not change the network"
        )
    for key, value in given.items():
        if key in no_effect:
            continue
        if key in expected and value != expected[key]:
            raise ConfigError(
                f"{where}: the argument {key}={value} makes another network than the released ones; only "
                f"{key}={expected[key]} can be converted"
            )
        if derived.get(key, value) != value:
            raise ConfigError(
                f"{where}: its tensors say {key}={derived[key]}, the arguments {key}={value}; "
                "pass the arguments that the checkpoint was made with"
            )


def prefixes(stored: Iterable[str], first: re.Pattern[str]) -> set[str]:
    """What stands before the name of a network's first tensor, of each network in a file."""
    matches = map(first.fullmatch, stored)
    return {match[1] for match in matches if match is not None}
