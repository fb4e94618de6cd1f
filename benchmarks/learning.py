"""Does a small world model learn? Bouncing discs, held-out seeds, against repeating the last frame.

    python benchmarks/learning.py --out runs/learning                     # all of it: some 20 minutes on 2 quiet cores
    python benchmarks/learning.py --out runs/short train.num_steps=200
    python benchmarks/learning.py --kind ar --out runs/learning_ar        # the autoregressive model

The path of real footage from end to end: videos and a manifest (cosmos_data.simulate.discs), a tokenizer, its
latents, a world model, `cosmos-train evaluate` on seeds that were never trained on; the runs are those of KINDS. Videos
are compared in pixels: a diffusion model's expected future, one step from pure noise, and an autoregressive model's
likeliest codes. The world model is trained in parts and evaluated after each, given 9 frames and given 1. Whatever is
there already is not made again.

Prints a JSON line for each evaluation and one at the end, and writes OUT/report.html with the curve and samples. Exits
with 1 where the model given 9 frames is not better than repeating the last of them, a diffusion model by 3 dB, or not
better than given 1; or where an autoregressive model's perplexity is not below the unigram's.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from goals import tell_goals
from provenance import provenance

from cosmos_data.simulate.config import DiscsConfig
from cosmos_data.simulate.folder import SimulationRequest, simulate
from cosmos_data.videos.media import read_first_frames
from cosmos_launch.pages.contents import Charts, Curves, Fact, FrameRow, FrameRows, Report, Section, Table
from cosmos_launch.pages.page import write_report
from cosmos_launch.pages.run_records import read_metrics
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.train.telling.progress import progress

NUM_TRAIN, NUM_HELDOUT = 1024, 32
NUM_PARTS = 5
"""Parts of the training; the model is evaluated after each."""
NUM_SAMPLES = 3
"""Held-out clips of which the page shows the last model's future."""
GIVEN = {9: 3, 1: 1}
"""Frames that are given -> latent frames of the tokenizer, which codes the first alone and then four together."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of world model."""

    world: str
    """Its run, and that of its tokenizer."""
    tokenizer: str
    gain_db: float
    """What the model must be better by than repeating the last frame."""


KINDS = {
    "dit": Kind("run/simulated_world", "run/simulated_tokenizer", gain_db=3.0),
    "ar": Kind("run/simulated_world_ar", "run/simulated_tokenizer_discrete", gain_db=0.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where everything lies, and how it is run."""

    kind: Kind
    out: Path
    nproc: int
    overrides: Sequence[str]
    """Of the world model's run."""

    @property
    def world(self) -> list[str]:
        """The world model's run."""
        data = [f"data.manifest={self.out}/world/manifest.arrow", f"latents.folder={self.out}/latents"]
        folders = [f"latents.tokenizer={self.out}/tokenizer/tokenizer", f"run_dir={self.out}/model"]
        return [self.kind.world, *data, *folders, "tracking.wandb=disabled", *self.overrides]

    @property
    def tokenizer(self) -> list[str]:
        """The tokenizer's run."""
        folders = [f"data.manifest={self.out}/world/manifest.arrow", f"run_dir={self.out}/tokenizer"]
        return [self.kind.tokenizer, *folders, "tracking.wandb=disabled"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Does a small world model learn? Bouncing discs, held-out seeds.")
    parser.add_argument("--kind", choices=KINDS, default="dit", help="diffusion or autoregressive")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="folder of all results")
    parser.add_argument("--nproc", type=int, default=2, help="processes that train")
    parser.add_argument("overrides", nargs="*", help="section.key=value: overrides of the world model's run")
    options = parser.parse_args()
    place = Place(
        kind=KINDS[options.kind], out=options.out.absolute(), nproc=options.nproc, overrides=options.overrides
    )
    make_data(place)
    curve = learn(place)
    summary = summarize(place, curve)
    print(json.dumps(summary), flush=True)
    report(place, curve, summary)
    sys.exit(tell_goals(missed_goals(place.kind, curve)))


def make_data(place: Place) -> None:
    """Videos, tokenizer and latents, each where it is not there yet."""
    if not (place.out / "world/manifest.arrow").exists():
        place.out.mkdir(parents=True, exist_ok=True)
        with progress("simulate", "videos") as advance:
            request = SimulationRequest(world=DiscsConfig(), num_train=NUM_TRAIN, num_heldout=NUM_HELDOUT)
            simulate(place.out / "world", request, progress=advance)
    if not (place.out / "tokenizer/tokenizer").exists():
        cosmos_train("train", *place.tokenizer, "--nproc", str(place.nproc))
    cosmos_train("tokenize", *place.world)


def learn(place: Place) -> list[dict[str, Any]]:
    """Train in parts; what the evaluations after each found."""
    num_steps = load_run(place.world[0], place.world[1:]).train.num_steps
    curve = []
    for part in range(1, NUM_PARTS + 1):
        step = num_steps * part // NUM_PARTS
        command = ["train", *place.world, f"train.stop_at_step={step}", "--nproc", str(place.nproc)]
        cosmos_train(*command, expected=0 if part == NUM_PARTS else 75)
        curve.append({"step": step, "given": {frames: judge(place, step, frames) for frames in GIVEN}})
        print(json.dumps({"benchmark": "learning", **curve[-1]}), flush=True)
    return curve


def judge(place: Place, step: int, given_frames: int) -> dict[str, float]:
    """PSNR in dB on held-out seeds: of the next frames, of repeating, and of the frames that both ways predict.

    Of an autoregressive model the unigram's perplexity over its own as well.
    """
    out = place.out / f"evaluation/step-{step:06d}-given-{given_frames}.json"
    if not out.exists():
        condition = f"sample.num_condition_frames={GIVEN[given_frames]}"
        command = ["evaluate", "world", str(place.out / "model"), condition, "--out", str(out)]
        cosmos_train(*command, "--max-windows", str(4 * NUM_HELDOUT))
    found = json.loads(out.read_text())
    by_frame, perplexity = found["pixel_mse_by_frame"], found.get("perplexity")
    ratio = {} if perplexity is None else {"perplexity_ratio": perplexity["unigram"] / perplexity["model"]}
    next_frames, same_frames = slice(max(GIVEN) - 1), slice(max(GIVEN) - given_frames, None)
    return {
        "psnr_db": psnr_db(by_frame["model"][next_frames]),
        "repeat_psnr_db": psnr_db(by_frame["repeat_last_frame"][next_frames]),
        "same_frames_psnr_db": psnr_db(by_frame["model"][same_frames]),
        **ratio,
    }


def psnr_db(mse_by_frame: Sequence[float]) -> float:
    """Of the mean squared error over frames, of pixels from 0 to 1."""
    return -10 * math.log10(sum(mse_by_frame) / len(mse_by_frame))


def gain_db(last: dict[int, dict[str, float]]) -> float:
    """Return by how much the model given 9 frames is better than repeating the last of them."""
    return last[9]["psnr_db"] - last[9]["repeat_psnr_db"]


def missed_goals(kind: Kind, curve: Sequence[dict[str, Any]]) -> list[str]:
    """Say of each goal that the last evaluation missed what was found and what is wanted."""
    last, missed = curve[-1]["given"], list[str]()
    if gain_db(last) < kind.gain_db:
        missed.append(
            f"the model is {gain_db(last):.2f} dB better than repeating the last frame, not {kind.gain_db} dB"
        )
    of_9, of_1 = (last[frames]["same_frames_psnr_db"] for frames in (9, 1))
    if of_9 <= of_1:
        missed.append(f"given 9 frames the model has {of_9:.2f} dB, not more than the {of_1:.2f} dB given 1")
    ratio = last[9].get("perplexity_ratio", math.inf)
    if ratio <= 1:
        missed.append(f"the unigram's perplexity is {ratio:.2f} of the model's, not more than it")
    return missed


def summarize(place: Place, curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last evaluation against the goals, and what it took."""
    last = curve[-1]["given"]
    logged = [record for record in read_metrics(place.out / "model/metrics.jsonl") if "step_sec" in record]
    step_sec = sorted(record["step_sec"] for record in logged)[len(logged) // 2]
    ratio = last[9].get("perplexity_ratio", math.inf)
    return {
        "benchmark": "learning",
        "run": place.kind.world,
        "step": curve[-1]["step"],
        "step_sec": round(step_sec, 4),
        "train_min": round(curve[-1]["step"] * step_sec / 60, 1),
        "gain_db": round(gain_db(last), 2),
        "same_frames_psnr_db": {frames: round(last[frames]["same_frames_psnr_db"], 2) for frames in GIVEN},
        "perplexity_ratio": round(ratio, 2) if math.isfinite(ratio) else None,
        "ok": not missed_goals(place.kind, curve),
        "processes": place.nproc,
        **provenance(),
    }


def samples(place: Place) -> list[FrameRow]:
    """Film strips: held-out clips, and the model's future of their first 9 frames."""
    run, rows = load_run(place.world[0], place.world[1:]), []
    assert isinstance(run, WorldDiTRun | WorldARRun)
    for clip in sorted((place.out / "world/heldout").glob("*.avi"))[:NUM_SAMPLES]:
        out = place.out / "samples" / clip.stem
        cosmos_train("sample", str(place.out / "model"), "--input", str(clip), "--out", str(out))
        for label, video in (("video", clip), ("model", out / "seed-0000.mp4")):
            frames_3THW = read_first_frames(video, run.data.num_frames, run.data, crop=False)
            rows.append(FrameRow(f"{label} {clip.stem}", list(frames_3THW.permute(1, 2, 3, 0).numpy())))
    return rows


def cosmos_train(*arguments: str, expected: int = 0) -> None:
    """Run a command as a user does. Exits as it did where that is not expected."""
    code = subprocess.run([sys.executable, "-m", "cosmos_launch.cli", *arguments], stdout=sys.stderr).returncode
    if code != expected:
        sys.exit(code or 1)


def report(place: Place, curve: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write OUT/report.html."""
    series = {f"given {n}": [(of["step"], of["given"][n]["psnr_db"]) for of in curve] for n in GIVEN}
    series |= {f"repeating 1 of {n}": [(of["step"], of["given"][n]["repeat_psnr_db"]) for of in curve] for n in GIVEN}
    rows = [(of["step"], n, *(round(value, 2) for value in of["given"][n].values())) for of, n in product(curve, GIVEN)]
    header = ["step", "given frames", "next 8 frames, dB", "repeating the last, dB", "frames 10 to 17, dB"]
    header += ["unigram's perplexity / model's"] * (len(rows[0]) - len(header))
    minutes = f"{summary['step']} steps, {place.nproc} processes"
    page = Report(
        title="A world model learns a simulated world",
        summary=[
            Fact("gain", f"{summary['gain_db']:+.1f} dB", "over repeating the last of 9 frames, held-out seeds"),
            Fact("training", f"{summary['train_min']:.0f} min", minutes),
        ],
        sections=[
            Section(
                title="Held-out seeds",
                text="PSNR of the model's future, through the tokenizer, in pixels.",
                items=[
                    Charts([Curves("PSNR, dB", series)], caption="The 8 frames after those that were given."),
                    Table(header=header, rows=rows, caption="Frames 10 to 17 are the same frames for both."),
                    FrameRows(rows=samples(place), caption="Held-out clips, and what the model makes of 9 frames."),
                ],
            )
        ],
    )
    write_report(place.out / "report.html", page)


if __name__ == "__main__":
    main()
