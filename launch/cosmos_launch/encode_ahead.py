"""`cosmos-train tokenize RUN.yaml` of a run with latents.fill=true: the windows of its first samples, encoded ahead.

They are those that the run will ask for, under the same names, so the run finds them and encodes what is beyond. What
is in the folder already stays: the same line again goes on where it was stopped, and several may fill one folder.
"""

import math
import os
from pathlib import Path

from cosmos_launch.progress import progress
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun, WorldRun
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.recipes import world_ar, world_batches
from cosmos_train.recipes.filled_windows import FilledWindows


def encode_ahead(run: WorldDiTRun | WorldARRun, num_samples: int | None) -> int:
    """num_samples: how many of the run's samples; None: an epoch, each clip once. Returns the exit code.

    Raises:
        ConfigError, DataError, TokenizerError, ValueError: something is missing, does not fit, or the folder does not
            hold so many windows.
    """
    try:
        return _encode(run, num_samples, init.start(ParallelConfig(), seed=run.seed))
    finally:
        init.stop()


def _encode(run: WorldDiTRun | WorldARRun, num_samples: int | None, mesh: Mesh) -> int:
    source = FilledWindows(run, mesh)
    if isinstance(run, WorldARRun):
        world_ar.check_codec(run, source.codec)
    else:
        world_batches.check_codec(run, source.codec)
    if num_samples is None:
        num_samples = source.plan.num_clips
    _check_folder(run, num_samples * math.prod(source.shape_CTHW) * source.dtype.itemsize)
    try:
        with progress("tokenize", "windows") as advance:
            for done, batch in enumerate(source.videos([index] for index in range(num_samples)), start=1):
                source.encode_text([sample.caption for sample in batch.samples])
                advance(done, num_samples)
    finally:
        source.flush()
    num_encoded, num_trained = source.encoder.num_encoded, run.train.num_steps * run.train.global_batch_size
    print(
        f"{num_encoded} windows encoded, {num_samples - num_encoded} were there already; the run takes {num_trained}: "
        f"{run.latents.folder}"
    )
    return 0


def _check_folder(run: WorldRun, num_bytes: int) -> None:
    """Of the latents of each window, whose shards are a little larger."""
    folder, limit_gib = Path(run.latents.folder), run.latents.max_gib
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"latents.folder={folder} can not be written to; name another, or let its owner fill it")
    if limit_gib is not None and num_bytes > limit_gib * 2**30:
        raise ConfigError(
            f"latents.max_gib={limit_gib} is less than the {num_bytes / 2**30:.3g} GiB of so many windows: the first "
            "would be gone before the run starts; allow more, or fill fewer samples ahead (--samples)"
        )
