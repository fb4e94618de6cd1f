"""Measure what a rank pays for a large data set; exit 1 where a goal is missed, and says so in its last line.

    python benchmarks/data_plane.py --rows 1000000

There are two data sets. A manifest of so many clips, of sizes of five aspect buckets, is written once as an Arrow file;
all of its rows lead to five real videos. A finished latent cache has as many windows, small ones, each with its own
caption, in shards of WINDOWS_PER_SHARD. Each line of figures is the best of NUM_PROCESSES fresh processes, figure by
figure:

    manifest     opens it as rank 0 does (every byte is compared with the file's SHA-256) and as other ranks do, makes a
                 sample plan of one stratum and one of twenty (two manifests, five buckets, images and videos), and
                 draws samples far apart
    first_batch  goes on at sample FAR: from the manifest on disk to decoded pixels, and from the start of the process,
                 Python's imports included
    cache        opens the cache and reads windows at random

Memory is what the process grew by, its own pages and those of mapped files. Goals are of seconds that pass; beside them
stand those of processor time (cpu), which tell where a miss is due to a busy machine. The goal of the first batch is
one for any number of rows.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from goals import tell_goals
from own_process import run_python, status_mib
from provenance import ROOT, provenance

sys.path.append(str(ROOT / "tests"))

GOALS = {
    "open_sec": ("seconds a million rows to open, verify, select and plan", 2.0),
    "memory_mib": ("MiB a million rows that a rank grows by", 200.0),
    "sample_us": ("microseconds a sample, of one stratum or twenty", 100.0),
    "first_batch_sec": ("seconds from the manifest on disk to the first batch after a resume", 2.0),
    "cache_open_ms": ("milliseconds a shard to open a latent cache", 0.2),
    "cache_memory_kib": ("KiB a shard that a rank grows by", 20.0),
    "window_us": ("microseconds a window of a latent cache, at random", 2000.0),
}
DRAWS, FAR, BATCH = 3000, 10**9, 4
NUM_PROCESSES = 3
WINDOWS_PER_SHARD = 1000


def real_pictures(folder: Path) -> list[dict[str, Any]]:
    """Rows of one clip of real footage, packed at the sizes of the five buckets."""
    from support.footage import FOOTAGE

    from cosmos_data.config import SIZES_PX
    from cosmos_data.manifests.build import build_manifest
    from cosmos_data.manifests.manifest import Manifest
    from cosmos_data.manifests.pack import PackRequest, pack_manifest
    from cosmos_data.manifests.rows import to_row

    (folder / "footage").mkdir()
    (folder / "footage/film.mp4").symlink_to(FOOTAGE / "bigbuckbunny.mp4")
    clip = build_manifest(folder / "footage", clip_frames=40, heldout_every=None, split_shots=False).manifest[0]
    rows = []
    for height_px, width_px in SIZES_PX["256"]:
        request = PackRequest(codec="h264", height_px=height_px, width_px=width_px)
        [packed] = pack_manifest(Manifest([clip]), folder / f"{height_px}x{width_px}", request)
        rows.append(to_row(packed))
    return rows


def measure_manifest(path: Path) -> dict[str, float]:
    """Open, plan and sample."""
    import numpy as np

    from cosmos_data.config import DataConfig
    from cosmos_data.manifests.manifest import Manifest
    from cosmos_data.sample_plan.plan import Part, SamplePlan

    one = DataConfig(manifest="m", num_frames=9, height_px=192, width_px=192)
    twenty = DataConfig(manifest="m", num_frames=9, height_px=256, width_px=256, buckets="256")
    before_mib = status_mib("VmRSS")
    started, started_cpu = time.perf_counter(), time.process_time()
    train = Manifest.read(path).select("train")
    plan = SamplePlan([Part(train)], 0, one)
    open_sec, open_cpu_sec = time.perf_counter() - started, time.process_time() - started_cpu
    memory_mib = status_mib("VmRSS") - before_mib
    started = time.perf_counter()
    Manifest.read(path, verify=False).select("train")
    other_ranks_sec = time.perf_counter() - started
    plans = {"one": plan, "twenty": SamplePlan([Part(train), Part(train, 0.5)], 0, twenty, image_share=0.2)}
    indices = np.random.default_rng(0).integers(0, 10**12, DRAWS).tolist()
    sample_us = {f"sample_us_{name}": median_us(of_cells.sample, indices) for name, of_cells in plans.items()}
    opening = {"open_sec": open_sec, "open_cpu_sec": open_cpu_sec, "other_ranks_sec": other_ranks_sec}
    return {**opening, "memory_mib": memory_mib, **sample_us}


def measure_first_batch(path: Path) -> dict[str, float]:
    """Resume at sample FAR."""
    from cosmos_data.config import DataConfig
    from cosmos_data.decoders.decode import PyAVDecoder
    from cosmos_data.manifests.manifest import Manifest
    from cosmos_data.sample_plan.loader import VideoBatches
    from cosmos_data.sample_plan.plan import Part, SamplePlan

    started, started_cpu = time.perf_counter(), time.process_time()
    config = DataConfig(manifest="m", num_frames=17, height_px=256, width_px=256, buckets="256", num_workers=2)
    plan = SamplePlan([Part(Manifest.read(path).select("train"))], 0, config, group_size=BATCH)
    decoder = PyAVDecoder(config.num_workers)
    [batch] = VideoBatches(plan, decoder, [range(FAR * BATCH, (FAR + 1) * BATCH)])
    assert len(batch.samples) == BATCH
    first_batch_sec, first_batch_cpu_sec = time.perf_counter() - started, time.process_time() - started_cpu
    return {
        "first_batch_sec": first_batch_sec,
        "first_batch_cpu_sec": first_batch_cpu_sec,
        "process_age_sec": process_age_sec(),
    }


def measure_cache(folder: Path) -> dict[str, float]:
    """Open, and read windows at random."""
    import numpy as np

    from cosmos_data.caches.latents import LatentStore

    before_mib = status_mib("VmRSS")
    started, started_cpu = time.perf_counter(), time.process_time()
    store = LatentStore(folder)
    open_sec, open_cpu_sec = time.perf_counter() - started, time.process_time() - started_cpu
    memory_mib = status_mib("VmRSS") - before_mib
    indices = np.random.default_rng(0).integers(0, len(store), DRAWS).tolist()
    window_us = median_us(store.window, indices)
    near_us = median_us(store.window, range(WINDOWS_PER_SHARD // 2))
    return {
        "cache_open_sec": open_sec,
        "cache_open_cpu_sec": open_cpu_sec,
        "cache_memory_mib": memory_mib,
        "window_us": window_us,
        "window_us_of_open_shard": near_us,
        "memory_mib_after_windows": status_mib("VmRSS") - before_mib,
    }


MEASURES: dict[str, Callable[[Path], dict[str, float]]] = {
    "manifest": measure_manifest,
    "first_batch": measure_first_batch,
    "cache": measure_cache,
}


def median_us(function: Callable[[int], object], indices: Sequence[int]) -> float:
    """Time a call for each index."""
    seconds = []
    for index in indices:
        started = time.perf_counter()
        function(index)
        seconds.append(time.perf_counter() - started)
    return 1e6 * median(seconds)


def process_age_sec() -> float:
    """Read since when this process has been running."""
    import psutil

    return time.time() - psutil.Process().create_time()


def in_new_process(name: str, path: Path) -> dict[str, float]:
    return json.loads(run_python([__file__, "--measure", name, str(path)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="clips, and windows of the cache")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        name, path = arguments.measure
        print(json.dumps(MEASURES[name](Path(path))))
        return 0

    from support.many import write_many_rows, write_many_windows

    num_shards = -(-arguments.rows // WINDOWS_PER_SHARD)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {"manifest": folder / "m.arrow", "first_batch": folder / "m.arrow", "cache": folder / "cache"}
        started = time.perf_counter()
        write_many_rows(paths["manifest"], real_pictures(folder), arguments.rows)
        write_many_windows(paths["cache"], num_shards, WINDOWS_PER_SHARD)
        print(f"wrote {arguments.rows} rows and {num_shards} shards in {time.perf_counter() - started:.0f} s")
        found: dict[str, float] = {}
        for what, path in paths.items():
            runs = [in_new_process(what, path) for _ in range(NUM_PROCESSES)]
            figures = {name: min(run[name] for run in runs) for name in runs[0]}
            rounded = {name: round(value, 3) for name, value in figures.items()}
            print(json.dumps({"of": what, "rows": arguments.rows, **rounded, **provenance()}), flush=True)
            found |= figures
    millions = max(1.0, arguments.rows / 1e6)
    measured = {
        "open_sec": found["open_sec"] / millions,
        "memory_mib": found["memory_mib"] / millions,
        "sample_us": max(found["sample_us_one"], found["sample_us_twenty"]),
        "first_batch_sec": found["first_batch_sec"],
        "cache_open_ms": 1e3 * found["cache_open_sec"] / num_shards,
        "cache_memory_kib": 1024 * found["cache_memory_mib"] / num_shards,
        "window_us": found["window_us"],
    }
    missed = [
        f"{GOALS[name][0]}: {value:.3g}, goal {GOALS[name][1]:g}"
        for name, value in measured.items()
        if value > GOALS[name][1]
    ]
    return tell_goals(missed)


if __name__ == "__main__":
    sys.exit(main())
