"""A latent cache of given tensors, clip by clip, for tests; `cosmos-train tokenize` makes them of videos."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cosmos_data.caches.latent_shards import WindowRow, write_latent_shard
from cosmos_data.caches.latents import LatentMetadata, entry_of, write_index
from cosmos_data.caches.shard_file import key_of
from cosmos_data.caches.text_shards import write_text_shard
from cosmos_data.manifests.clip import Split
from cosmos_data.sample_plan.window_conditions import BARE, WindowConditions


@dataclass(frozen=True, slots=True)
class _Clip:
    caption: str
    z_NCTHW: Tensor
    split: Split
    rows: list[WindowRow]
    size_px: tuple[int, int] | None


class LatentWriter:
    """Fills a new cache: `add_text` for every caption, `add_clip` for every clip, then `finish`. Each clip has a shard
    of its own."""

    def __init__(self, folder: Path, metadata: LatentMetadata) -> None:
        self.folder, self.metadata = folder, metadata
        self.texts: dict[str, Tensor] = {}
        self.clips: list[_Clip] = []

    def add_text(self, caption: str, states_SE: Tensor) -> None:
        """The caption's own tokens only, no padding."""
        self.texts[caption] = states_SE

    def add_clip(
        self,
        clip_id: str,
        z_NCTHW: Tensor,
        start_frames: Sequence[int],
        *,
        split: Split,
        caption: str,
        fps: float,
        inner_px: tuple[int, int, int, int] | None = None,
        size_px: tuple[int, int] | None = None,
        conditions: WindowConditions = BARE,
    ) -> None:
        """All windows of one clip, which have the same conditions."""
        rows = [
            WindowRow(clip_id=clip_id, start_frame=start, text_row=0, fps=fps, inner_px=inner_px, conditions=conditions)
            for start in start_frames
        ]
        self.clips.append(_Clip(caption, z_NCTHW, split, rows, size_px))

    def finish(self) -> str:
        """Writes all of it. Returns the cache's digest."""
        entries = []
        for clip in self.clips:
            states = {clip.caption: self.texts[clip.caption]}
            text = write_text_shard(self.folder, self.metadata.text_encoder, states)
            content = hashlib.sha256(clip.z_NCTHW.float().numpy().tobytes()).hexdigest()
            shard = write_latent_shard(
                self.folder,
                key_of([clip.rows[0].clip_id, content]),
                clip.rows,
                clip.z_NCTHW,
                split=clip.split,
                tokenizer_digest=self.metadata.tokenizer_digest,
                text=text.file.path.stem,
                size_px=clip.size_px,
            )
            entries.append(entry_of(self.folder, shard, text))
        return write_index(self.folder, self.metadata, entries)
