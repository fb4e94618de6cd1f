"""The latent cache: windows encoded once by a tokenizer, and the text states of their captions.

    folder/
      index.json             what is inside, for which tokenizer, text encoder and manifest; written last
      text.safetensors       one tensor [S, E] per distinct caption
      clips/000000.safetensors   z [num_windows, C, T, H, W]: raw latents, not whitened; start_frame [num_windows]

A folder without an index is incomplete and refused. The index holds the size and sha256 of every file, and its own
digest: that digest names the cache as the manifest's digest names a manifest.

Letters: C latent channels; T, H, W latent frames, rows, columns; S text tokens; E width of a text state.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosmos_data.clip import Split
from cosmos_data.errors import DataError
from cosmos_data.location import file_sha256

FORMAT_VERSION = 1
INDEX_NAME = "index.json"
TEXT_NAME = "text.safetensors"


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
    width_px: int
    windows: str = ""
    """Which windows of the clips, by the settings that choose them; empty where the cache does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentWindow:
    """One row of one clip's `z`."""

    clip_id: str
    file: str
    row: int
    start_frame: int
    split: Split
    caption: str
    fps: float
    """Frames per second of the window, its stride counted in."""
    inner_px: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the picture in a window that has padding around it; None: no padding."""


@dataclass(slots=True)
class _Contents:
    """What index.json holds besides the metadata and the digest."""

    windows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    latent_shape: list[int] = field(default_factory=list)
    latent_dtype: str = ""
    text_keys: dict[str, str] = field(default_factory=dict)
    max_text_tokens: int = 0


class LatentWriter:
    """Fills a new cache: `add_text` for every caption, `add_clip` for every clip, in any order, then `finish`."""

    def __init__(self, folder: str | Path, metadata: LatentMetadata) -> None:
        self.folder = Path(folder).absolute()
        if (self.folder / INDEX_NAME).exists():
            raise DataError(f"{self.folder} holds a complete latent cache; choose another folder, or remove it")
        (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        self._metadata = metadata
        self._contents = _Contents()
        self._text: dict[str, Tensor] = {}
        self._clip_ids: set[str] = set()

    def add_text(self, caption: str, states_SE: Tensor) -> None:
        """The caption's own tokens only, no padding."""
        if states_SE.ndim != 2 or not len(states_SE):
            raise DataError(f"text states of {caption!r} have shape {tuple(states_SE.shape)}; expected [S, E], S >= 1")
        self._text[text_key(caption)] = states_SE.contiguous().cpu()

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
        """All windows of one clip. Written at once; nothing of it is kept in memory."""
        contents = self._contents
        if clip_id in self._clip_ids:
            raise DataError(f"clip {clip_id} was added already; give all its windows in one call")
        if z_NCTHW.ndim != 5 or len(z_NCTHW) != len(start_frames) or not len(start_frames):
            raise DataError(
                f"clip {clip_id}: latents {tuple(z_NCTHW.shape)} with {len(start_frames)} start frames;"
                " expected [num_windows, C, T, H, W] and one start frame for each window"
            )
        shape, dtype = list(z_NCTHW.shape[1:]), str(z_NCTHW.dtype).removeprefix("torch.")
        if contents.windows and (shape, dtype) != (contents.latent_shape, contents.latent_dtype):
            raise DataError(
                f"clip {clip_id}: latents {shape} {dtype}, and those before were {contents.latent_shape}"
                f" {contents.latent_dtype}; a cache holds one shape and type"
            )
        contents.latent_shape, contents.latent_dtype = shape, dtype
        name = f"clips/{len(self._clip_ids):06d}.safetensors"
        starts = torch.tensor(list(start_frames), dtype=torch.int64)
        self._save(name, {"z": z_NCTHW.contiguous().cpu(), "start_frame": starts})
        self._clip_ids.add(clip_id)
        for row, start_frame in enumerate(start_frames):
            window = LatentWindow(
                clip_id=clip_id,
                file=name,
                row=row,
                start_frame=int(start_frame),
                split=split,
                caption=caption,
                fps=fps,
                inner_px=inner_px,
            )
            contents.windows.append(asdict(window))

    def finish(self) -> str:
        """Writes the text states and, last, the index. Returns the cache's digest."""
        contents = self._contents
        if not contents.windows:
            raise DataError(f"{self.folder}: no window was added; a latent cache needs at least one")
        captions = sorted({window["caption"] for window in contents.windows})
        missing = [caption for caption in captions if text_key(caption) not in self._text]
        if missing:
            raise DataError(f"{len(missing)} captions have no text states, {missing[0]!r} first; add_text them")
        contents.text_keys = {caption: text_key(caption) for caption in captions}
        text = {key: self._text[key] for key in contents.text_keys.values()}
        if len({(states.shape[1], states.dtype) for states in text.values()}) > 1:
            raise DataError("text states differ in width or type; encode all captions with one text encoder")
        contents.max_text_tokens = max(len(states) for states in text.values())
        self._save(TEXT_NAME, text)
        index = {"version": FORMAT_VERSION, "metadata": asdict(self._metadata), **asdict(contents)}
        index["digest"] = index_digest(index)
        aside = self.folder / f".{INDEX_NAME}.{os.getpid()}.partial"
        aside.write_text(json.dumps(index, indent=1), encoding="utf-8")
        aside.replace(self.folder / INDEX_NAME)
        return index["digest"]

    def _save(self, name: str, tensors: dict[str, Tensor]) -> None:
        path = self.folder / name
        save_file(tensors, path)
        self._contents.files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


class LatentStore:
    """A complete cache, read lazily: a window costs the reading of that window."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        index = _read_index(self.folder)
        self.digest: str = index["digest"]
        self.metadata = LatentMetadata(**index["metadata"])
        self.windows = tuple(LatentWindow(**window) for window in index["windows"])
        self.latent_shape: tuple[int, ...] = tuple(index["latent_shape"])
        """[C, T, H, W]"""
        self.max_text_tokens: int = index["max_text_tokens"]
        self._text_keys: Mapping[str, str] = index["text_keys"]
        self._files: Mapping[str, Mapping[str, Any]] = index["files"]
        for name, file in self._files.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                raise DataError(f"{path} is missing or was cut off; make the latent cache again")

    def __len__(self) -> int:
        return len(self.windows)

    def indices(self, split: Split) -> list[int]:
        """The windows of one split."""
        return [k for k, window in enumerate(self.windows) if window.split == split]

    def window(self, k: int) -> dict[str, Any]:
        """z_CTHW, padding_1HW (1 at cells that are padding), text_SE (zeros from `text_length` on, S the same for all
        windows), text_length, fps, and the window's clip_id, start_frame, split and caption."""
        window = self.windows[k]
        with safe_open(self.folder / window.file, framework="pt") as file:
            z_CTHW = file.get_slice("z")[window.row]
        with safe_open(self.folder / TEXT_NAME, framework="pt") as file:
            states_SE = file.get_tensor(self._text_keys[window.caption])
        text_SE = states_SE.new_zeros(self.max_text_tokens, states_SE.shape[1])
        text_SE[: len(states_SE)] = states_SE
        return {
            "z_CTHW": z_CTHW,
            "padding_1HW": padding_cells(
                window.inner_px, self.latent_shape[2:], (self.metadata.height_px, self.metadata.width_px)
            ),
            "text_SE": text_SE,
            "text_length": len(states_SE),
            "fps": window.fps,
            "clip_id": window.clip_id,
            "start_frame": window.start_frame,
            "split": window.split,
            "caption": window.caption,
        }

    def require(self, **asked: str | int) -> None:
        """Raises `DataError` where the cache was made with something else than what is named here, by the fields of
        LatentMetadata."""
        made = asdict(self.metadata)
        for name, value in asked.items():
            if made[name] not in (value, ""):
                raise DataError(
                    f"the latent cache {self.folder} was made with {name}={made[name]}, and this run has {value};"
                    " remove it and make it again, name another folder, or run with what it was made with"
                )

    def verify(self) -> None:
        """Reads every file once and compares it with the index. Raises `DataError` that names the first other one."""
        for name, file in self._files.items():
            if file_sha256(self.folder / name) != file["sha256"]:
                raise DataError(f"{self.folder / name} has changed since it was written; make the latent cache again")


def padding_cells(
    inner_px: tuple[int, int, int, int] | None, latent_HW: Sequence[int], window_px: tuple[int, int]
) -> Tensor:
    """[1, H, W], 1 at padding: the pixels' mask at every cell's upper left corner, as torch's `nearest` takes it.

    inner_px: top, left, height and width of the picture in the window; window_px: height and width of that.
    """
    height, width = latent_HW
    if inner_px is None:
        return torch.zeros(1, height, width)
    top, left, inner_height, inner_width = inner_px
    rows_px = torch.arange(height) * window_px[0] // height
    columns_px = torch.arange(width) * window_px[1] // width
    is_row = (rows_px >= top) & (rows_px < top + inner_height)
    is_column = (columns_px >= left) & (columns_px < left + inner_width)
    return (~(is_row[:, None] & is_column)).float()[None]


def text_key(caption: str) -> str:
    """The name of a caption's tensor."""
    return hashlib.sha256(caption.encode()).hexdigest()


def index_digest(index: Mapping[str, Any]) -> str:
    content = {key: value for key, value in index.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_NAME
    if not path.is_file():
        raise DataError(f"{folder} holds no complete latent cache ({INDEX_NAME} is missing); make it (again)")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); make the latent cache again") from error
    if index.get("version", 0) > FORMAT_VERSION:
        raise DataError(
            f"{path} has version {index['version']}, and this cosmos-train reads up to {FORMAT_VERSION};"
            " install a newer cosmos-train, or make the latent cache again"
        )
    if index.get("digest") != index_digest(index):
        raise DataError(f"{path} was edited: its content does not match its digest; make the latent cache again")
    return index
