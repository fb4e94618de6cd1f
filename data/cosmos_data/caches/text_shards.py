"""Text states of captions: a shard for the captions of each shard of windows, read by the row.

S text tokens; E width of a state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from cosmos_data.caches.shard_file import SUFFIX, ShardFile, dtype_name, key_of, open_shard, write_shard
from cosmos_data.errors import DataError

FOLDER, KIND = "text", "text"
SCHEMA = pa.schema([pa.field("caption", pa.string(), nullable=False)])


def text_key(encoder: str, captions: list[str]) -> str:
    """Return what a text shard is a function of: which encoder, and which captions in which order."""
    return key_of([KIND, encoder, captions])


def text_path(store: Path, key: str) -> Path:
    """Return where the shard lies in a store."""
    return store / FOLDER / f"{key}{SUFFIX}"


def write_text_shard(store: Path, encoder: str, states: Mapping[str, Tensor]) -> "TextShard":
    """Write the states [S, E] of each caption: its own tokens only, no padding.

    Raises:
        DataError: states are none, or of different widths or types; or see shard_file.write_shard.
        StorageError: the disk is full, or gone.
    """
    for caption, states_SE in states.items():
        if states_SE.ndim != 2 or not len(states_SE):
            raise DataError(f"text states of {caption!r} have shape {tuple(states_SE.shape)}; expected [S, E], S >= 1")
    kinds = {(states_SE.shape[1], states_SE.dtype) for states_SE in states.values()}
    if len(kinds) != 1:
        raise DataError("text states differ in width or type; encode all captions with one text encoder")
    [(width, dtype)] = kinds
    key = text_key(encoder, list(states))
    facts: dict[str, Any] = {
        "kind": KIND,
        "key": key,
        "encoder": encoder,
        "width": width,
        "dtype": dtype_name(dtype),
        "max_tokens": max(len(states_SE) for states_SE in states.values()),
    }
    rows = [{"caption": caption} for caption in states]
    return TextShard(write_shard(text_path(store, key), facts, SCHEMA, rows, list(states.values())))


def open_text_shard(store: Path, key: str) -> "TextShard":
    """Open a shard. Raises `DataError` where it is missing, cut off, or another."""
    return TextShard(open_shard(text_path(store, key), KIND))


@dataclass(frozen=True, slots=True)
class TextShard:
    """An open one: a caption and its states for each row."""

    file: ShardFile

    @property
    def width(self) -> int:
        """Return E, the length of a state."""
        return self.file.facts["width"]

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the states' numbers."""
        return getattr(torch, self.file.facts["dtype"])

    @property
    def max_tokens(self) -> int:
        """Return S of its longest caption."""
        return self.file.facts["max_tokens"]

    def caption(self, row: int) -> str:
        """Return the text of a row."""
        return self.file.row(row)["caption"]

    def states(self, row: int) -> Tensor:
        """Return the states [S, E] of a row's caption."""
        return self.file.tensor(row, self.dtype, (-1, self.width))
