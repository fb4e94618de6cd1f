"""`cosmos-train data simulate WORLD`: a folder of clips of a simulated world, with a manifest."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cosmos_data.simulate.folder import SimulationRequest, simulate
from cosmos_data.videos.written_codecs import PackCodec
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_world
from cosmos_train.train.telling.progress import progress


def simulate_world(
    world: str,
    overrides: Sequence[str],
    *,
    out: Path,
    clips: int,
    heldout: int,
    frames: int | None,
    size: str | None,
    fps: float | None,
    seed: int,
    codec: PackCodec,
    workers: int | None,
) -> int:
    """Write the folder, or what is missing of it. Returns the exit code.

    Raises:
        ConfigError: a key or a size is wrong.
        DataError: the folder is another request's, or the world can not be made here.
    """
    given = {"num_frames": frames, "fps": fps}
    if size is not None:
        given["height_px"], given["width_px"] = _sides_px(size)
    options = [f"{world}.{key}={value}" for key, value in given.items() if value is not None]
    config = load_world(world, [*options, *overrides])
    request = SimulationRequest(world=config, num_train=clips, num_heldout=heldout, seed=seed, codec=codec)
    num_workers = len(os.sched_getaffinity(0)) if workers is None else workers
    with progress("simulate", "clips") as advance:
        manifest = simulate(out, request, num_workers=num_workers, progress=advance)
    first = manifest[0]
    views = f" in {1 + len(first.views)} views" if first.views else ""
    print(
        f"{len(manifest)} clips ({heldout} held out) of {first.num_frames} frames{views}, {first.width_px}x"
        f"{first.height_px} {first.codec} -> {out / 'manifest.arrow'}"
    )
    return 0


def _sides_px(size: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", size)
    if sides is None:
        raise ConfigError(f"--size {size} is not HxW, height and width in pixels; write it as 32x48")
    return int(sides[1]), int(sides[2])
