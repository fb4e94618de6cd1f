"""Latents of windows of one split, shape and type in a shard, with what is known of each window and where its caption's
states are.

C latent channels; T, H, W latent frames, rows and columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from cosmos_data.caches.encoded import KnownWindow
from cosmos_data.caches.shard_file import AGAIN, SUFFIX, ShardFile, dtype_name, open_shard, write_shard
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.rows import plain_values
from cosmos_data.sample_plan.window_conditions import BARE, COLUMNS, WindowConditions, from_columns

FOLDER, KIND = "windows", "latents"
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("start_frame", pa.int64(), nullable=False),
        pa.field("text_row", pa.int64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("inner_px", pa.list_(pa.int64())),
    ]
)
CONDITIONED = pa.schema([*SCHEMA, *COLUMNS])
"""Of a shard some of whose windows come with conditions: a shard without them has the bytes that it always had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowRow:
    """What a shard says of one window, besides its latents."""

    clip_id: str
    start_frame: int
    text_row: int
    """Of its caption, in the text shard that goes with this one."""
    fps: float
    """Frames per second of the window, its stride counted in."""
    inner_px: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the picture in a window that has padding around it; None: no padding."""
    conditions: WindowConditions = BARE

    @classmethod
    def of(cls, known: KnownWindow, text_row: int) -> "WindowRow":
        """Make the row of a window whose caption stands in this row of the text shard."""
        return cls(
            clip_id=known.clip_id,
            start_frame=known.start_frame,
            text_row=text_row,
            fps=known.fps,
            inner_px=known.inner_px,
            conditions=known.conditions,
        )

    def known(self, split: Split, caption: str) -> KnownWindow:
        """Return the window again, with what its shards say besides."""
        return KnownWindow(
            clip_id=self.clip_id,
            start_frame=self.start_frame,
            split=split,
            caption=caption,
            fps=self.fps,
            inner_px=self.inner_px,
            conditions=self.conditions,
        )


def latent_path(store: Path, key: str) -> Path:
    """Return where the shard lies in a store."""
    return store / FOLDER / f"{key}{SUFFIX}"


def write_latent_shard(
    store: Path,
    key: str,
    rows: Sequence[WindowRow],
    z_NCTHW: Tensor,
    *,
    split: Split,
    tokenizer_digest: str,
    text: str,
    size_px: tuple[int, int] | None = None,
    statistics: Mapping[str, Any] | None = None,
) -> "LatentShard":
    """Write one row and one window of latents each.

    key: names all that they are a function of; text: key of the text shard; size_px: height and width of the windows,
    where the store's metadata does not say them; statistics: what whoever makes the store gathers of these latents, in
    values that JSON knows.

    Raises:
        DataError: rows and latents do not fit each other; or see shard_file.write_shard.
        StorageError: the disk is full, or gone.
    """
    if z_NCTHW.ndim != 5 or len(z_NCTHW) != len(rows) or not rows:
        raise DataError(
            f"latents {tuple(z_NCTHW.shape)} for {len(rows)} windows; expected [windows, C, T, H, W], and one at least"
        )
    facts: dict[str, Any] = {
        "kind": KIND,
        "key": key,
        "split": split,
        "shape": list(z_NCTHW.shape[1:]),
        "dtype": dtype_name(z_NCTHW.dtype),
        "tokenizer_digest": tokenizer_digest,
        "text": text,
        "statistics": statistics,
    }
    if size_px is not None:
        facts["size_px"] = list(size_px)
    is_conditioned = any(row.conditions != BARE for row in rows)
    schema = CONDITIONED if is_conditioned else SCHEMA
    values = [_columns_of(row, schema.names) for row in rows]
    return LatentShard(write_shard(latent_path(store, key), facts, schema, values, list(z_NCTHW)))


def open_latent_shard(store: Path, key: str, tokenizer_digest: str) -> "LatentShard":
    """Open a shard. Raises `DataError` where it is missing, cut off, or another tokenizer's."""
    shard = LatentShard(open_shard(latent_path(store, key), KIND))
    found = shard.file.facts["tokenizer_digest"]
    if found != tokenizer_digest:
        raise DataError(
            f"{shard.file.path} was made with tokenizer_digest={found}, and this latent cache is of {tokenizer_digest};"
            f" {AGAIN}"
        )
    return shard


@dataclass(frozen=True, slots=True)
class LatentShard:
    """An open one."""

    file: ShardFile

    def __len__(self) -> int:
        return len(self.file)

    @property
    def split(self) -> Split:
        """Return the split of all its windows."""
        return self.file.facts["split"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape [C, T, H, W] of each window."""
        return tuple(self.file.facts["shape"])

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Return height and width of its windows; None: those that the store's metadata says."""
        said = self.file.facts.get("size_px")
        return None if said is None else tuple(said)

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the latents' numbers."""
        return getattr(torch, self.file.facts["dtype"])

    @property
    def text(self) -> str:
        """Return the key of the text shard with the states of its captions."""
        return self.file.facts["text"]

    @property
    def statistics(self) -> Mapping[str, Any] | None:
        """Return what write_latent_shard was given."""
        return self.file.facts["statistics"]

    def row(self, number: int) -> WindowRow:
        """Return what is known of a window."""
        values = self.file.row(number)
        inner = values["inner_px"]
        return WindowRow(
            clip_id=values["clip_id"],
            start_frame=values["start_frame"],
            text_row=values["text_row"],
            fps=values["fps"],
            inner_px=None if inner is None else tuple(inner),
            conditions=from_columns(values),
        )

    def latents(self, number: int) -> Tensor:
        """Return z [C, T, H, W] of a window."""
        return self.file.tensor(number, self.dtype, self.shape)


def _columns_of(row: WindowRow, names: Sequence[str]) -> dict[str, Any]:
    values = plain_values(row)
    return {name: value for name, value in (values | values["conditions"]).items() if name in names}


def windows_per_shard(shape_CTHW: Sequence[int], dtype: torch.dtype, shard_bytes: float) -> int:
    """Return as many as fit into so many bytes, and one at least."""
    return max(1, int(shard_bytes // (math.prod(shape_CTHW) * dtype.itemsize)))
