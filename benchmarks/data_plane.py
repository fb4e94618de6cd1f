"""What a rank pays for a large data set, with synthetic rows; exits 1 where a goal is missed.

    python benchmarks/data_plane.py --rows 1000000

A manifest of so many clips, of sizes of five aspect buckets, is written once as an Arrow file. A fresh process then
opens it as rank 0 does (every byte is compared with the file's SHA-256) and as other ranks do, makes a sample plan of
one cell and one of twenty (two manifests, five buckets, images and videos), and draws samples far apart. Memory is what
the process grew by, its own pages and those of the mapped file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from provenance import commit

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

GOALS = {
    "open_sec": ("seconds a million rows to open, verify, select and plan", 2.0),
    "memory_mib": ("MiB a million rows that a rank grows by", 200.0),
    "sample_us": ("microseconds a sample, of one cell or twenty", 100.0),
}
DRAWS = 3000


def rows(num_rows: int) -> Iterator[dict[str, Any]]:
    """Yield rows of clips with names, digests, paths and captions of a usual length."""
    from support.clips import CLIP

    from cosmos_data.config import SIZES_PX
    from cosmos_data.rows import to_row

    row, sizes = to_row(CLIP), SIZES_PX["256"]
    for number in range(num_rows):
        height_px, width_px = sizes[number % len(sizes)]
        yield row | {
            "clip_id": f"part-{number // 10_000:05d}/{number:09d}@0",
            "path": f"part-{number // 10_000:05d}/{number:09d}.mp4",
            "digest": f"{number:064x}",
            "caption": f"A person walks through a street of a town in the rain, take {number}, seen from behind.",
            "split": "heldout" if number % 100 == 99 else "train",
            "height_px": height_px,
            "width_px": width_px,
        }


def measure(path: Path) -> dict[str, float]:
    """Measure in this process, which has done nothing else."""
    import numpy as np

    from cosmos_data.config import DataConfig
    from cosmos_data.manifest import Manifest
    from cosmos_data.plan import Part, SamplePlan

    one = DataConfig(manifest="m", num_frames=9, height_px=192, width_px=192)
    twenty = DataConfig(manifest="m", num_frames=9, height_px=256, width_px=256, buckets="256")
    before_mib = resident_mib()
    started = time.perf_counter()
    train = Manifest.read(path).select("train")
    plan = SamplePlan([Part(train)], 0, one)
    open_sec = time.perf_counter() - started
    memory_mib = resident_mib() - before_mib
    started = time.perf_counter()
    Manifest.read(path, verify=False).select("train")
    other_ranks_sec = time.perf_counter() - started
    plans = {"one": plan, "twenty": SamplePlan([Part(train), Part(train, 0.5)], 0, twenty, image_share=0.2)}
    indices = np.random.default_rng(0).integers(0, 10**12, DRAWS)
    sample_us = {}
    for name, of_cells in plans.items():
        seconds = []
        for index in indices.tolist():
            started = time.perf_counter()
            of_cells.sample(index)
            seconds.append(time.perf_counter() - started)
        sample_us[f"sample_us_{name}"] = 1e6 * median(seconds)
    return {"open_sec": open_sec, "other_ranks_sec": other_ranks_sec, "memory_mib": memory_mib, **sample_us}


def resident_mib() -> float:
    """Read how much memory this process holds, pages of mapped files among it."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return 0

    from cosmos_data.table import write_table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.arrow"
        started = time.perf_counter()
        write_table(path, rows(arguments.rows), dict.fromkeys(("", "train", "heldout"), "0" * 64))
        seconds, size_mib = time.perf_counter() - started, path.stat().st_size / 2**20
        print(f"wrote {arguments.rows} rows in {seconds:.0f} s, {size_mib:.0f} MiB")
        command = [sys.executable, __file__, "--measure", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    rounded = {name: round(value, 3) for name, value in found.items()}
    print(json.dumps({"rows": arguments.rows, "commit": commit(), **rounded}))
    millions = max(1.0, arguments.rows / 1e6)
    measured = {
        "open_sec": found["open_sec"] / millions,
        "memory_mib": found["memory_mib"] / millions,
        "sample_us": max(found["sample_us_one"], found["sample_us_twenty"]),
    }
    missed = [
        f"{GOALS[name][0]}: {value:.3g}, goal {GOALS[name][1]:g}"
        for name, value in measured.items()
        if value > GOALS[name][1]
    ]
    print("missed: " + "; ".join(missed) if missed else "all goals are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
