"""Data sets of many clips without as much footage: a manifest, and a latent cache with a caption for each window."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cosmos_data.caches.latent_shards import WindowRow, write_latent_shard
from cosmos_data.caches.latents import LatentMetadata, ShardEntry, entry_of, write_index
from cosmos_data.caches.shard_file import key_of
from cosmos_data.caches.text_shards import write_text_shard
from cosmos_data.manifests.table import write_table

SHAPE_CTHW, SHAPE_SE = (4, 1, 2, 2), (3, 8)
METADATA = LatentMetadata(
    tokenizer_digest="tok", text_encoder="t5", manifest_digest="man", window_frames=9, height_px=16, width_px=16
)


def write_many_rows(path: Path, pictures: Sequence[Mapping[str, Any]], num_rows: int) -> None:
    """An Arrow manifest of so many clips with names, digests and captions of a usual length. Every hundredth is held
    out. pictures: rows of clips, which take turns; the digests of manifest and splits are made up."""
    rows = (dict(pictures[number % len(pictures)]) | _named(number) for number in range(num_rows))
    write_table(path, rows, {name: f"{name} of {num_rows}" for name in ("", "train", "heldout")})


def _named(number: int) -> dict[str, str]:
    return {
        "clip_id": f"part-{number // 10_000:05d}/{number:09d}@0",
        "digest": f"{number:064x}",
        "caption": f"A person walks through a street of a town in the rain, take {number}, seen from behind.",
        "split": "heldout" if number % 100 == 99 else "train",
    }


def write_many_windows(folder: Path, num_shards: int, per_shard: int) -> None:
    """A finished latent cache of small windows, each of a clip of its own with a caption of its own. A window's latents
    are its number."""
    write_index(folder, METADATA, _entries(folder, num_shards, per_shard))


def _entries(folder: Path, num_shards: int, per_shard: int) -> Iterator[ShardEntry]:
    for shard_number in range(num_shards):
        numbers = range(shard_number * per_shard, (shard_number + 1) * per_shard)
        names = [_named(number) for number in numbers]
        states = torch.randn(per_shard, *SHAPE_SE, generator=torch.Generator().manual_seed(shard_number))
        text = write_text_shard(folder, "t5", dict(zip([name["caption"] for name in names], states, strict=True)))
        latents = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, *SHAPE_CTHW)
        shard = write_latent_shard(
            folder,
            key_of(shard_number),
            [
                WindowRow(clip_id=name["clip_id"], start_frame=0, text_row=row, fps=24.0)
                for row, name in enumerate(names)
            ],
            latents,
            split="train",
            tokenizer_digest="tok",
            text=text.file.path.stem,
        )
        yield entry_of(folder, shard, text)
