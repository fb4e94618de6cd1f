"""Latents of windows, kept by what they are a function of: a run fills the folder as it goes, and finds what is there.

    FOLDER/filled/*.arrow       shards of z [C, T, H, W], raw (cosmos_data.caches.keyed_shards)

The key is a digest of the clip's bytes, the window in time, what is cut out of the picture and how it is scaled, the
tokenizer and the number type, so another tokenizer never finds these windows. Windows of several sizes may lie in one
folder, each size in shards of its own.
"""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_data.caches.keyed_shards import SHARD_BYTES, KeyedShards
from cosmos_data.sample_plan.plan import Sample

logger = logging.getLogger(__name__)

FOLDER, KIND = "filled", "filled latents"
KEY_VERSION = 1
"""To be raised when a window's pixels change (decoding, colours, scaling) for the same sample."""


def shown_by(sample: Sample) -> list[Any]:
    """Return what a window's pixels are a function of: [which frames, what is made of them]."""
    clip = sample.clip
    start_frame = sample.start_frame - clip.start_frame
    window = [clip.digest, start_frame, sample.num_frames, sample.frame_stride]
    inner = None if sample.inner is None else asdict(sample.inner)
    return [window, [asdict(sample.box), sample.height_px, sample.width_px, inner, sample.flip]]


class WindowCache:
    """Keeps windows of one tokenizer and number type. Any number of threads may use it."""

    def __init__(
        self,
        folder: str | Path,
        *,
        tokenizer_digest: str,
        dtype: torch.dtype,
        max_bytes: int | None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Open a cache. max_bytes: of its shards, whoever wrote them; None: no limit. shard_bytes: see KeyedShards."""
        self.dtype = dtype
        self._identity = [KEY_VERSION, tokenizer_digest, str(dtype)]
        self._shards = KeyedShards(
            Path(folder) / FOLDER,
            kind=KIND,
            facts={"key_version": KEY_VERSION, "tokenizer_digest": tokenizer_digest, "latents": str(dtype)},
            max_bytes=max_bytes,
            shard_bytes=shard_bytes,
        )
        if next(Path(folder).glob("windows/??/*.safetensors"), None) is not None:
            logger.warning(
                "%s/windows holds one file a window, as an earlier cosmos-train kept them; they are not read any more, "
                "and its folders ?? can be removed",
                folder,
            )

    def key(self, sample: Sample) -> str:
        """Return a SHA-256 of what the latents of a window are a function of; its number in a run is not."""
        return hashlib.sha256(json.dumps([self._identity, *shown_by(sample)], sort_keys=True).encode()).hexdigest()

    def read(self, sample: Sample) -> Tensor | None:
        """Return z [C, T, H, W]; None where it is not there, or damaged."""
        kept = self._shards.read(self.key(sample))
        return None if kept is None else kept.value[0]

    def write(self, sample: Sample, z_CTHW: Tensor) -> None:
        """Keep z at once for this process, and for others when a shard is full, or at `flush`."""
        assert z_CTHW.dtype == self.dtype, f"{z_CTHW.dtype} latents in a cache of {self.dtype}"
        self._shards.write(self.key(sample), z_CTHW[None])

    def flush(self) -> None:
        """Write what was gathered. Where that fails, the log says so, and what was to be kept is not."""
        self._shards.flush()
