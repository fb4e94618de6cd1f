"""Text states that are computed once, on shards: the store behind text.cache.CachedTextEncoder.

FOLDER/*.arrow      shards of states [S, E] without the zeros past the end (cosmos_data.caches.keyed_shards)
"""

import logging
from pathlib import Path

from torch import Tensor

from cosmos_data.caches.keyed_shards import KeyedShards

logger = logging.getLogger(__name__)

KIND = "filled text"


class TextCache:
    """Keeps states of any number of encoders by a SHA-256 of encoder and text. Any number of threads may use it."""

    def __init__(self, folder: str | Path) -> None:
        self._shards = KeyedShards(Path(folder), kind=KIND, facts={})
        if next(Path(folder).glob("[0-9a-f]*.safetensors"), None) is not None:
            logger.warning(
                "%s holds one file a text, as an earlier cosmos-train kept them; they are not read any more, and its "
                "*.safetensors can be removed",
                folder,
            )

    def read(self, key: str) -> tuple[Tensor, int] | None:
        """Return states [S, E] and how many tokens were cut off; None where they are not there, or damaged."""
        kept = self._shards.read(key)
        return None if kept is None else (kept.value, kept.about["dropped"])

    def write(self, key: str, states_SE: Tensor, dropped: int) -> None:
        """Keep states [S, E] at once for this process, and for others when a shard is full, or at `flush`."""
        self._shards.write(key, states_SE, {"dropped": dropped})

    def flush(self) -> None:
        """Write what was gathered. Where that fails, the log says so, and what was to be kept is not."""
        self._shards.flush()
