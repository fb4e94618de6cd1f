"""Frames as torchcodec gives them, from a process of its own that has the FFmpeg which PyAV brings.

torchcodec asks the system for FFmpeg's libraries, which a machine may have in any version or not at all. PyAV's wheel
has them under names of its own, and where libraries are looked for is settled when a process starts.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import distribution
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@contextmanager
def pyav_libraries() -> Iterator[None]:
    """Let processes that are started meanwhile find the FFmpeg that PyAV brings."""
    libraries = Path(str(distribution("av").locate_file("av.libs")))
    with tempfile.TemporaryDirectory() as names, pytest.MonkeyPatch.context() as patch:
        for library in libraries.glob("lib*.so.*"):
            # libavcodec-5e6b81c2.so.62.28.102 -> libavcodec.so.62
            plain = re.sub(r"-[0-9a-f]+\.so\.(\d+).*", r".so.\1", library.name)
            if plain.startswith(("libav", "libsw")):
                (Path(names) / plain).symlink_to(library)
        patch.setenv("LD_LIBRARY_PATH", os.pathsep.join([names, str(libraries)]))
        yield


@contextmanager
def torchcodec_process() -> Iterator[ProcessPoolExecutor]:
    """Runs `decoded` in it."""
    with pyav_libraries(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def decoded(path: Path, numbers: Sequence[int]) -> tuple[int, list[np.ndarray]]:
    """How many frames the video has, and the pictures [H, W, 3] of some."""
    from torchcodec.decoders import VideoDecoder  # where its libraries are found: in that process

    video: Any = VideoDecoder(str(path), dimension_order="NHWC", seek_mode="exact")
    return len(video), [video[number].numpy() for number in numbers]
