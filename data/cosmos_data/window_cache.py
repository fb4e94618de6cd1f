"""Latents of windows, kept by what they are a function of: a run fills the folder as it goes, and finds what is there.

    FOLDER/windows/<first two digits>/<key>.safetensors        z [C, T, H, W], raw
    FOLDER/windows/partial/                                    files that are being written

The key is a digest of the clip's bytes, the window in time, what is cut out of the picture and how it is scaled, the
tokenizer and the number type, so another tokenizer never finds these files. Any number of processes may share a folder:
a file is written aside and renamed, and its content depends on its name alone. Where the folder would hold more than
`max_bytes`, the least recently used files go; another process sees a file that has gone as one that never was. From a
folder that cannot be written to, what is there is read; what is not is encoded each time.
"""

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cosmos_data.plan import Sample

logger = logging.getLogger(__name__)

KEY_VERSION = 1
"""To be raised when a window's pixels change (decoding, colours, scaling) for the same sample."""

KEPT_SHARE = 0.9
"""Of `max_bytes`, that an eviction leaves: then there is not one after every file."""

RECOUNT_SHARE = 0.02
"""Of `max_bytes`, that a process writes before it looks again what others have written: n processes together pass the
limit by n times that at most."""

ABANDONED_SEC = 3600
"""A file that has been in the making for so long is of a process that was killed."""


def shown_by(sample: Sample) -> list[Any]:
    """What a window's pixels are a function of: [which frames, what is made of them]."""
    clip = sample.clip
    start_frame = sample.start_frame - clip.start_frame
    window = [clip.digest, start_frame, sample.num_frames, sample.frame_stride]
    inner = None if sample.inner is None else asdict(sample.inner)
    return [window, [asdict(sample.box), sample.height_px, sample.width_px, inner, sample.flip]]


class WindowCache:
    """Of one tokenizer and number type. For any number of threads."""

    def __init__(self, folder: str | Path, *, tokenizer_digest: str, dtype: torch.dtype, max_bytes: int | None) -> None:
        """max_bytes: of files in the folder, whoever wrote them; None: no limit."""
        self._folder = Path(folder) / "windows"
        self._identity = [KEY_VERSION, tokenizer_digest, str(dtype)]
        self.dtype, self._max_bytes = dtype, max_bytes
        self._lock = Lock()
        self._counted_bytes = 0 if max_bytes is None else sum(size for _, size, _ in self._files())
        self._written_bytes = 0
        """Since they were counted."""
        self._fault = ""
        """Why files could not be written, once that has been told."""
        self._partial = self._folder / "partial"
        self._remove_abandoned()

    def key(self, sample: Sample) -> str:
        """What the latents of a window are a function of; its number in a run is not."""
        return hashlib.sha256(json.dumps([self._identity, *shown_by(sample)], sort_keys=True).encode()).hexdigest()

    def read(self, sample: Sample) -> Tensor | None:
        """z [C, T, H, W]; None where it is not there, or damaged."""
        path = self._path(sample)
        try:
            z_CTHW = load(path.read_bytes())["z"]  # safetensors' own reading of files has no error for one that is gone
        except (OSError, SafetensorError, KeyError):
            return None  # not there, evicted meanwhile, or cut off by a full disk: it is encoded again
        with suppress(OSError):  # evicted meanwhile, or not ours to touch
            os.utime(path)  # the least recently used go first
        return z_CTHW

    def write(self, sample: Sample, z_CTHW: Tensor) -> None:
        """Complete or absent. Where that fails, the log says so once, and what was to be kept is not."""
        assert z_CTHW.dtype == self.dtype, f"{z_CTHW.dtype} latents in a cache of {self.dtype}"
        path = self._path(sample)
        aside = self._partial / f"{path.stem}-{uuid4().hex}.partial"
        content = save({"z": z_CTHW.contiguous().cpu()})
        try:
            for folder in (path.parent, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(content)
            aside.replace(path)
            self._limit(len(content))
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            self._tell(error)

    def _limit(self, num_bytes: int) -> None:
        """After so many bytes were written. Counts anew, because other processes write and evict too."""
        if self._max_bytes is None:
            return
        with self._lock:
            self._written_bytes += num_bytes
            is_full = self._counted_bytes + self._written_bytes > self._max_bytes
            if is_full or self._written_bytes > RECOUNT_SHARE * self._max_bytes:
                self._counted_bytes, self._written_bytes = self._evict(self._max_bytes), 0

    def _evict(self, max_bytes: int) -> int:
        """Bytes that are left in the folder."""
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        if left <= max_bytes:
            return left
        for _, size, path in files:
            if left <= KEPT_SHARE * max_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
        return left

    def _remove_abandoned(self) -> None:
        oldest = time.time() - ABANDONED_SEC
        for path in self._partial.glob("*.partial"):
            with suppress(OSError):  # another process was faster, or may do it
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _tell(self, error: OSError) -> None:
        with self._lock:
            if not self._fault:
                self._fault = str(error.strerror)
                logger.warning("latents are not kept in %s: %s; they are encoded each time", self._folder, self._fault)

    def _files(self) -> list[tuple[int, int, Path]]:
        """(time of last use, bytes, path) of each."""
        found = []
        for path in self._folder.glob("*/*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # another process evicts
            found.append((stat.st_mtime_ns, stat.st_size, path))
        return found

    def _path(self, sample: Sample) -> Path:
        key = self.key(sample)
        return self._folder / key[:2] / f"{key}.safetensors"
