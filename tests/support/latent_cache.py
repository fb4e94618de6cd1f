"""A latent cache of given tensors, clip by clip, for tests; `cosmos-train tokenize` makes them of videos."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from cosmos_data.clip import Split
from cosmos_data.latent_shards import WindowRow, write_latent_shard
from cosmos_data.latents import LatentMetadata, entry_of, write_index
from cosmos_data.shard_file import key_of
from cosmos_data.text_shards import write_text_shard


class LatentWriter:
    """Fills a new cache: `add_text` for every caption, `add_clip` for every clip, then `finish`. Each clip has a shard
    of its own."""

    def __init__(self, folder: Path, metadata: LatentMetadata) -> None:
        self.folder, self.metadata = folder, metadata
        self.texts: dict[str, Tensor] = {}
        self.clips: list[tuple[str, Tensor, Split, list[WindowRow]]] = []

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
    ) -> None:
        """All windows of one clip."""
        rows = [
            WindowRow(clip_id=clip_id, start_frame=start, text_row=0, fps=fps, inner_px=inner_px)
            for start in start_frames
        ]
        self.clips.append((caption, z_NCTHW, split, rows))

    def finish(self) -> str:
        """Writes all of it. Returns the cache's digest."""
        entries = []
        for caption, z_NCTHW, split, rows in self.clips:
            text = write_text_shard(self.folder, self.metadata.text_encoder, {caption: self.texts[caption]})
            content = hashlib.sha256(z_NCTHW.float().numpy().tobytes()).hexdigest()
            shard = write_latent_shard(
                self.folder,
                key_of([rows[0].clip_id, content]),
                rows,
                z_NCTHW,
                split=split,
                tokenizer_digest=self.metadata.tokenizer_digest,
                text=text.file.path.stem,
            )
            entries.append(entry_of(self.folder, shard, text))
        return write_index(self.folder, self.metadata, entries)
