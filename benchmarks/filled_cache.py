"""Measure what a cache that fills costs by the window; print JSON lines.

    python benchmarks/filled_cache.py --windows 8000 --keys 10000000

Windows of 16 x 4 x 22 x 40 latents are written, read in a random order by a store that has just been opened, and their
files counted for an eviction; keys of as many shards as --keys needs, 2,500 to a shard, go into an index alone.
"""

import argparse
import json
import random
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

from cosmos_data.caches.key_index import KeyIndex
from cosmos_data.caches.keyed_shards import KeyedShards

KEYS_PER_SHARD = 2500
NUM_MISSES = 500


def measure_store(folder: Path, num_windows: int) -> dict[str, float]:
    """Microseconds a window, milliseconds to open and to count."""
    z_1CTHW = torch.randn(1, 16, 4, 22, 40)
    keys = [sha256(str(number).encode()).hexdigest() for number in range(num_windows + NUM_MISSES)]
    kept, misses = keys[:num_windows], keys[num_windows:]

    def opened() -> KeyedShards:
        return KeyedShards(folder, kind="benchmark", facts={}, max_bytes=2**50)

    store, figures = opened(), {}
    started = time.perf_counter()
    for key in kept:
        store.write(key, z_1CTHW)
    store.flush()
    figures["write_us"] = (time.perf_counter() - started) / num_windows * 1e6
    figures["files"] = len(list(folder.iterdir()))
    started = time.perf_counter()
    store = opened()
    store.read(misses[0])
    figures["open_ms"] = (time.perf_counter() - started) * 1e3
    random.Random(0).shuffle(kept)
    started = time.perf_counter()
    for key in kept:
        assert store.read(key) is not None, "it was written"
    figures["read_us"] = (time.perf_counter() - started) / num_windows * 1e6
    started = time.perf_counter()
    for key in misses:
        store.read(key)
    figures["miss_us"] = (time.perf_counter() - started) / NUM_MISSES * 1e6
    started = time.perf_counter()
    store._evict(2**50)  # more than there is: it counts, and nothing goes
    figures["count_ms"] = (time.perf_counter() - started) * 1e3
    return figures


def measure_index(num_keys: int) -> dict[str, float]:
    """Seconds to fill it, MiB, microseconds a look-up."""
    drawn, index = np.random.default_rng(0), KeyIndex()
    started = time.perf_counter()
    for shard in range(num_keys // KEYS_PER_SHARD):
        index.add(shard, np.sort(drawn.integers(0, 2**64, KEYS_PER_SHARD, dtype=np.uint64)))
    filled_sec = time.perf_counter() - started
    wanted = drawn.integers(0, 2**64, 10_000, dtype=np.uint64).tolist()
    started = time.perf_counter()
    for start in wanted:
        next(index.find(start), None)
    find_us = (time.perf_counter() - started) / len(wanted) * 1e6
    return {"fill_sec": filled_sec, "memory_mib": index.num_bytes / 2**20, "runs": len(index.runs), "find_us": find_us}


def main() -> None:
    """Print a line for the store and one for the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=8000)
    parser.add_argument("--keys", type=int, default=10_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        figures = measure_store(Path(name), arguments.windows)
    for what, found in (("store", figures), ("index", measure_index(arguments.keys))):
        rounded = {name: float(f"{value:.3g}") for name, value in found.items()}
        print(json.dumps({"what": what, **vars(arguments), **rounded, **provenance()}))


if __name__ == "__main__":
    main()
