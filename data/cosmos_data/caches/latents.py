"""The latent cache: windows encoded once by a tokenizer, and the text states of their captions, in shards.

    folder/
      index.json              what is inside, for which tokenizer, text encoder and manifest; written last
      windows/<key>.arrow     raw latents, not whitened, of windows of many clips, with the conditions of each
                              (cosmos_data.caches.latent_shards)
      text/<key>.arrow        states of their captions (cosmos_data.caches.text_shards)

Shards are complete or absent and are made by any number of processes. The windows of one shard have one shape, and a
cache may have several, of as many channels and frames. The index names the shards in their order, windows of the
training split first and those of either split by shape, with their digests and its own: that digest names the cache as
the manifest's digest names a manifest. A folder without an index is incomplete and refused. To open a cache costs the
reading of its index, which has a line for each shard; to read a window costs the reading of that window, out of a
mapped shard that stays open.

Letters: C latent channels; T, H, W latent frames, rows, columns; S text tokens; E width of a text state.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

from cosmos_data.caches.encoded import EncodedWindow, KnownWindow
from cosmos_data.caches.latent_shards import LatentShard, latent_path, open_latent_shard
from cosmos_data.caches.shard_file import AGAIN, written
from cosmos_data.caches.text_shards import TextShard, open_text_shard, text_path
from cosmos_data.errors import DataError
from cosmos_data.manifests.clip import Split

FORMAT_VERSION = 3
OLDEST_VERSION = 2
"""That is still read, and still written where a cache has one shape and no conditions, as all had in it: those keep
their digests, and runs that began on them go on."""
INDEX_NAME = "index.json"

Shape = tuple[int, ...]
"""[C, T, H, W]"""

OPEN_SHARDS = 128
"""Of windows, and of texts, that a process keeps open. Each is a mapping and a file, whose numbers are limited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentMetadata:
    """What the latents depend on."""

    tokenizer_digest: str
    text_encoder: str
    manifest_digest: str
    window_frames: int
    """Video frames in a window."""

    frame_stride: int = 1
    height_px: int
    """Of a window whose shard does not say another size; width_px likewise."""
    width_px: int
    windows: str = ""
    """Which windows of the clips, by the settings that choose them; empty where the cache does not say."""
    conditions: str = ""
    """Which of them some of its windows come with: names of the fields of WindowConditions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """A line of the index: a shard of windows, and the one of texts that goes with it."""

    key: str
    split: Split
    num_windows: int
    num_bytes: int
    digest: str
    text: str
    """Key of the text shard."""
    text_num_bytes: int
    text_digest: str
    shape: Shape
    dtype: str
    text_kind: str
    """Width and type of its text states."""
    max_text_tokens: int


def entry_of(folder: Path, shard: LatentShard, text: TextShard) -> ShardEntry:
    """Return the index's line for these two."""
    return ShardEntry(
        key=shard.file.path.stem,
        split=shard.split,
        num_windows=len(shard),
        num_bytes=shard.file.path.stat().st_size,
        digest=shard.file.digest,
        text=shard.text,
        text_num_bytes=text_path(folder, shard.text).stat().st_size,
        text_digest=text.file.digest,
        shape=shard.shape,
        dtype=shard.file.facts["dtype"],
        text_kind=f"{text.width} {text.file.facts['dtype']}",
        max_text_tokens=text.max_tokens,
    )


def write_index(folder: Path, metadata: LatentMetadata, entries: Iterable[ShardEntry]) -> str:
    """Make the shards of a folder a cache. entries: in the order of their windows. Returns the cache's digest.

    Raises:
        DataError: there is none, or they do not belong together.
        StorageError: the disk is full, or gone.
    """
    entries = sorted(entries, key=lambda entry: (get_args(Split).index(entry.split), entry.shape))
    if not entries:
        raise DataError(f"{folder}: no window was added; a latent cache needs at least one")
    kinds = {(*entry.shape[:2], entry.dtype): entry.shape for entry in entries}
    if len(kinds) > 1:
        found = " and ".join(f"{dtype} {kinds[*CT, dtype]}" for *CT, dtype in sorted(kinds))
        raise DataError(
            f"{folder}: latents {found}; those of a cache have one type, as many channels and as many frames"
        )
    if len({entry.text_kind for entry in entries}) > 1:
        raise DataError("text states differ in width or type; encode all captions with one text encoder")
    is_plain = len({entry.shape for entry in entries}) == 1 and not metadata.conditions
    said = asdict(metadata)
    if not metadata.conditions:
        del said["conditions"]
    index = {
        "version": OLDEST_VERSION if is_plain else FORMAT_VERSION,
        "metadata": said,
        "shards": [asdict(entry) | {"shape": list(entry.shape)} for entry in entries],
    }
    index["digest"] = index_digest(index)
    with written(folder / INDEX_NAME) as aside:
        aside.write_text(json.dumps(index, indent=1), encoding="utf-8")
    return index["digest"]


class LatentStore:
    """A complete cache, read lazily, by any number of threads, and by processes that are forked from this one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        index = _read_index(self.folder)
        self.digest: str = index["digest"]
        self.metadata = LatentMetadata(**index["metadata"])
        self._entries = [ShardEntry(**entry | {"shape": tuple(entry["shape"])}) for entry in index["shards"]]
        self._ends = list(accumulate(entry.num_windows for entry in self._entries))
        self.shapes: tuple[Shape, ...] = tuple(sorted({entry.shape for entry in self._entries}))
        """Those that its windows have, each once."""
        self.max_text_tokens: int = max(entry.max_text_tokens for entry in self._entries)
        for entry in self._entries:
            _check_size(latent_path(self.folder, entry.key), entry.num_bytes)
            _check_size(text_path(self.folder, entry.text), entry.text_num_bytes)
        self._shard = lru_cache(OPEN_SHARDS)(self._open_shard)
        self._text = lru_cache(OPEN_SHARDS)(self._open_text)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def latent_shape(self) -> Shape:
        """Return the shape that all windows have. Raises `DataError` where there are several."""
        first, *others = self.shapes
        if others:
            raise DataError(
                f"the latent cache {self.folder} has windows of the shapes {', '.join(map(str, self.shapes))}, and one "
                "shape is wanted here; make one with data.buckets=one in another folder"
            )
        return first

    def indices(self, split: Split, shape: Shape | None = None) -> range:
        """Return the windows of one split, and of one shape where one is named."""
        wanted = [n for n, e in enumerate(self._entries) if e.split == split and shape in (None, e.shape)]
        if not wanted:
            return range(0)
        return range(self._ends[wanted[0]] - self._entries[wanted[0]].num_windows, self._ends[wanted[-1]])

    def describe(self, k: int) -> KnownWindow:
        """Return all that is known of a window but its tensors."""
        shard, text, number = self._find(k)
        row = shard.row(number)
        return row.known(shard.split, text.caption(row.text_row))

    def window(self, k: int) -> EncodedWindow:
        """Return all of a window, copied. S of its text states is the same for all windows of the cache."""
        shard, text, number = self._find(k)
        row = shard.row(number)
        states_SE = text.states(row.text_row)
        text_SE = states_SE.new_zeros(self.max_text_tokens, text.width)
        text_SE[: len(states_SE)] = states_SE
        size_px = shard.size_px or (self.metadata.height_px, self.metadata.width_px)
        return EncodedWindow.of(
            row.known(shard.split, text.caption(row.text_row)),
            z_CTHW=shard.latents(number),
            text_SE=text_SE,
            size_px=size_px,
        )

    def require(self, **asked: str | int) -> None:
        """Raise `DataError` where the cache was made with something else than what is named here, by the fields of
        LatentMetadata. Settings that an old cache does not say are taken to be the same."""
        made = asdict(self.metadata)
        for name, value in asked.items():
            if made[name] != value and (name == "conditions" or made[name] != ""):
                raise DataError(
                    f"the latent cache {self.folder} was made with {name}={made[name]}, and this run has {value};"
                    " remove it and make it again, name another folder, or run with what it was made with"
                )

    def verify(self) -> None:
        """Read every shard once and compare it with its digest. Raises `DataError` that names the first other one."""
        for number in range(len(self._entries)):
            self._open_shard(number).file.verify()
        for text in dict.fromkeys((entry.text, entry.text_digest) for entry in self._entries):
            self._open_text(*text).file.verify()

    def _find(self, k: int) -> tuple[LatentShard, TextShard, int]:
        """Return (shard of window k, its text shard, row in the first)."""
        if not 0 <= k < len(self):
            raise IndexError(f"window {k} of {len(self)}")
        number = bisect_right(self._ends, k)
        entry = self._entries[number]
        text = self._text(entry.text, entry.text_digest)
        return self._shard(number), text, k - self._ends[number] + entry.num_windows

    def _open_shard(self, number: int) -> LatentShard:
        entry = self._entries[number]
        shard = open_latent_shard(self.folder, entry.key, self.metadata.tokenizer_digest)
        _check_digest(shard.file.path, shard.file.digest, entry.digest)
        return shard

    def _open_text(self, key: str, digest: str) -> TextShard:
        text = open_text_shard(self.folder, key)
        _check_digest(text.file.path, text.file.digest, digest)
        return text


def is_finished(folder: str | Path) -> bool:
    """Tell whether a folder holds a whole cache, of whatever version."""
    return (Path(folder) / INDEX_NAME).is_file()


def index_digest(index: Mapping[str, Any]) -> str:
    """Return the digest of all that an index says."""
    content = {key: value for key, value in index.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_size(path: Path, num_bytes: int) -> None:
    if not path.is_file() or path.stat().st_size != num_bytes:
        raise DataError(f"{path} is missing or was cut off; {AGAIN}")


def _check_digest(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise DataError(f"{path} is another shard of the same name than the index was written for; {AGAIN}")


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    if not is_finished(folder):
        raise DataError(
            f"{folder} holds no complete latent cache ({INDEX_NAME} is missing); make it with `cosmos-train tokenize`, "
            "which goes on where it was stopped"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); make the latent cache again") from error
    version = index.get("version", 0) if isinstance(index, dict) else 0
    reads = f"this cosmos-train reads versions {OLDEST_VERSION} and {FORMAT_VERSION}"
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path} has version {version}, and {reads}; install a newer cosmos-train, or make the latent cache again"
        )
    if version < OLDEST_VERSION:
        raise DataError(
            f"{folder} is a latent cache of version {version}, with a file for each clip, and {reads}; remove it and "
            "make it again with `cosmos-train tokenize`"
        )
    if index.get("digest") != index_digest(index):
        raise DataError(f"{path} was edited: its content does not match its digest; {AGAIN}")
    return index
