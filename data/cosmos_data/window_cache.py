"""Latents of windows, kept by what they are a function of: a run fills the folder as it goes, and finds what is there.

    FOLDER/windows/<first two digits>/<key>.safetensors        z [C, T, H, W], raw

The key is a digest of the clip's bytes, the window in time, what is cut out of the picture and how it is scaled, the
tokenizer and the number type, so another tokenizer never finds these files. Any number of processes may share a folder:
a file is written aside and renamed, and its content depends on its name alone. Where the folder would hold more than
`max_bytes`, the least recently used files go; another process sees a file that has gone as one that never was.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from threading import Lock

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from cosmos_data.plan import Sample

KEY_VERSION = 1
"""To be raised when a window's pixels change (decoding, colours, scaling) for the same sample."""

KEPT_SHARE = 0.9
"""Of `max_bytes`, that an eviction leaves: then there is not one after every file."""


class WindowCache:
    """Of one tokenizer and number type. For any number of threads."""

    def __init__(self, folder: str | Path, *, tokenizer_digest: str, dtype: torch.dtype, max_bytes: int | None) -> None:
        """max_bytes: of files in the folder, whoever wrote them; None: no limit."""
        self._folder = Path(folder) / "windows"
        self._identity = [KEY_VERSION, tokenizer_digest, str(dtype)]
        self._dtype, self._max_bytes = dtype, max_bytes
        self._lock = Lock()
        self._num_bytes = sum(size for _, size, _ in self._files()) if max_bytes is not None else 0

    def key(self, sample: Sample) -> str:
        """What the latents of a window are a function of; its number in a run is not."""
        clip = sample.clip
        start_frame = sample.start_frame - clip.start_frame
        window = [clip.digest, start_frame, sample.num_frames, sample.frame_stride]
        inner = None if sample.inner is None else asdict(sample.inner)
        transform = [asdict(sample.box), sample.height_px, sample.width_px, inner, sample.flip]
        return hashlib.sha256(json.dumps([self._identity, window, transform], sort_keys=True).encode()).hexdigest()

    def read(self, sample: Sample) -> Tensor | None:
        """z [C, T, H, W]; None where it is not there, or damaged."""
        path = self._path(sample)
        try:
            z_CTHW = load(path.read_bytes())["z"]  # safetensors' own reading of files has no error for one that is gone
            os.utime(path)  # the least recently used go first
        except (OSError, SafetensorError, KeyError):
            return None  # not there, evicted meanwhile, or cut off by a full disk: it is encoded again
        return z_CTHW

    def write(self, sample: Sample, z_CTHW: Tensor) -> None:
        """Complete or absent."""
        assert z_CTHW.dtype == self._dtype, f"{z_CTHW.dtype} latents in a cache of {self._dtype}"
        path = self._path(sample)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}-{id(z_CTHW)}.partial")
        try:
            save_file({"z": z_CTHW.contiguous().cpu()}, aside)
            num_bytes = aside.stat().st_size
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        with self._lock:
            self._num_bytes += num_bytes
            if self._max_bytes is not None and self._num_bytes > self._max_bytes:
                self._evict(self._max_bytes)

    def _evict(self, max_bytes: int) -> None:
        """Counts anew: other processes write and evict too."""
        files = sorted(self._files())
        self._num_bytes = sum(size for _, size, _ in files)
        if self._num_bytes <= max_bytes:
            return
        for _, size, path in files:
            if self._num_bytes <= KEPT_SHARE * max_bytes:
                return
            path.unlink(missing_ok=True)
            self._num_bytes -= size

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
