"""The demo's page: what was trained, how well, how fast, with pictures. Read from the demo's folder alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.manifests.manifest import Clip, Manifest
from cosmos_data.sample_plan.plan import cover_windows
from cosmos_data.videos.media import read_first_frames
from cosmos_launch.pages.contents import (
    Charts,
    Curves,
    Fact,
    FrameRow,
    FrameRows,
    Mark,
    Report,
    Section,
    Table,
    Text,
)
from cosmos_launch.pages.page import write_report
from cosmos_launch.pages.run_records import read_metrics
from cosmos_tok.metrics import psnr, ssim
from cosmos_tok.model import to_uint8, to_unit_range
from cosmos_tok.store import load_tokenizer
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldDiTRun

MAX_RECONSTRUCTED_CLIPS = 4


def held_out_clip(out: Path) -> Clip:
    """The clip whose first frame the demo continues: the last that is held out.

    Of the default footage it is of the man in the car, whom training clips show before and after it.
    """
    held_out = Manifest.read(out / "clips/manifest.arrow").select("heldout")
    return held_out[len(held_out) - 1]


def write_demo_report(out: Path, stages: list[dict[str, Any]]) -> None:
    """Write OUT/report.html."""
    run = load_run(str(out / "world/run.yaml"))
    assert isinstance(run, WorldDiTRun)
    evaluation = json.loads((out / "evaluation.json").read_text())
    originals, restored, clips = reconstruct(out, run.data)
    psnr_db, similarity = psnr(originals, restored).mean, ssim(originals, restored).mean
    better = 1 - evaluation["ratio"]
    report = Report(
        title="A world model trained on this machine",
        summary=[
            Fact("whole demo", f"{sum(stage['seconds'] for stage in stages) / 60:.1f} min", "after the installation"),
            Fact(
                "peak memory", f"{max(stage['peak_memory_gib'] for stage in stages):.1f} GiB", "all processes together"
            ),
            Fact("tokenizer", f"{psnr_db:.1f} dB PSNR", f"SSIM {similarity:.3f}, held-out frames, 8x8x8 compression"),
            Fact(
                "world model",
                f"{abs(better):.0%} {'less' if better > 0 else 'more'} error",
                "than repeating the last frame, held-out windows",
            ),
        ],
        sections=[
            _world_section(out, evaluation),
            _sample_section(out, run),
            _tokenizer_section(out, originals, restored, clips),
            _cost_section(out, stages),
            _configuration_section(out),
        ],
    )
    write_report(out / "report.html", report)


@torch.inference_mode()
def reconstruct(out: Path, data: DataConfig) -> tuple[Tensor, Tensor, list[Clip]]:
    """Return the first windows of held-out clips, what the tokenizer makes of them, uint8 [N, 3, T, H, W] each, and the
    clips."""
    held_out = Manifest.read(out / "clips/manifest.arrow").select("heldout")
    first_windows = {s.clip.clip_id: s for s in reversed(list(cover_windows(held_out, data, hop_frames=1)))}
    samples = list(reversed(first_windows.values()))[:MAX_RECONSTRUCTED_CLIPS]
    originals = PyAVDecoder(2).decode(samples)
    tokenizer, _ = load_tokenizer(out / "tokenizer/tokenizer")
    restored = torch.cat([to_uint8(tokenizer(to_unit_range(video[None]))) for video in originals])
    return originals, restored, [sample.clip for sample in samples]


def _world_section(out: Path, evaluation: dict[str, Any]) -> Section:
    records = read_metrics(out / "world/metrics.jsonl")
    starts = [record for record in records if record.get("event") == "start"]
    marks = [Mark(start["step"], f"resumed as {start['layout']}") for start in starts if start["step"] > 0]
    mse = evaluation["latent_mse"]
    pixel_mse = {name: float(np.mean(by_frame)) for name, by_frame in evaluation["pixel_mse_by_frame"].items()}
    return Section(
        title="World model",
        text=(
            "A Cosmos DiT in Video2World form, trained by megatron-core on two processes: first tensor parallel, then "
            "stopped, and resumed from its distributed checkpoint as data parallel. On "
            f"{evaluation['num_windows']} held-out windows, given one frame, the future it expects (one step from pure "
            f"noise: the mean of all futures) has a latent error of {mse['model']:.3f}; repeating that frame has "
            f"{mse['repeat_last_frame']:.3f} (mean squared difference of whitened latents; better on "
            f"{evaluation['windows_won']} windows). In pixels from 0 to 1 these are {pixel_mse['model']:.4f} and "
            f"{pixel_mse['repeat_last_frame']:.4f}."
        ),
        items=[
            Charts(
                [Curves(name, {name: _series(records, name)}) for name in ("loss", "error")],
                marks=marks,
                caption="loss: with the learned uncertainty, so it may fall below 0; error: weighted squared error",
            )
        ],
    )


def _sample_section(out: Path, run: WorldDiTRun) -> Section:
    clip = held_out_clip(out)
    truth_3THW = read_first_frames(Path(clip.path), run.data.num_frames, run.data, crop=True)
    futures = {"first frame, repeated": truth_3THW[:, :1].expand_as(truth_3THW)}
    files = {"expected future": out / "expected/seed-0000.mp4"}
    files |= {f"sample, {path.stem}": path for path in sorted((out / "samples").glob("seed-*.mp4"))}
    for name, path in files.items():
        futures[name] = read_first_frames(path, run.data.num_frames, run.data, crop=False)
    rows = [FrameRow("what happened", _frames(truth_3THW))]
    for name, video_3THW in futures.items():
        rows.append(FrameRow(f"{name}: pixel MSE {_future_mse(video_3THW, truth_3THW):.4f}", _frames(video_3THW)))
    return Section(
        title="Videos from one frame",
        text=(
            "Video2World from the first frame of a held-out clip, every second frame: the mean of all futures, in one "
            "step from pure noise, and samples of them in several. The pixel MSE is the mean squared difference from "
            "what happened, of pixels from 0 to 1 and over all frames after the first; of a future that might have "
            f"happened as well it is not 0 either. Prompt: {clip.caption}."
        ),
        items=[FrameRows(rows, caption="The first column is given; the rest is sampled.", fps=clip.fps / 2)],
    )


def _future_mse(video_3THW: Tensor, truth_3THW: Tensor) -> float:
    """Mean squared difference of the frames after the first, of pixels from 0 to 1."""
    difference = (video_3THW[:, 1:].float() - truth_3THW[:, 1:].float()) / 255
    return float(difference.square().mean())


def _tokenizer_section(out: Path, originals: Tensor, restored: Tensor, clips: list[Clip]) -> Section:
    records = read_metrics(out / "tokenizer/metrics.jsonl")
    rows: list[FrameRow] = []
    for original, video, clip in zip(originals, restored, clips, strict=True):
        scores = f"{psnr(original[None], video[None]).mean:.1f} dB, SSIM {ssim(original[None], video[None]).mean:.3f}"
        rows += [
            FrameRow(f"original, {clip.clip_id}", _frames(original)),
            FrameRow(f"reconstruction, {scores}", _frames(video)),
        ]
    return Section(
        title="Tokenizer",
        text="A causal video tokenizer of the CV8x8x8 architecture at a fraction of its width, on held-out clips.",
        items=[
            FrameRows(rows, caption="Every second frame of a window."),
            Charts([Curves("PSNR of training batches, dB", {"PSNR": _series(records, "psnr_db")})]),
        ],
    )


def _cost_section(out: Path, stages: list[dict[str, Any]]) -> Section:
    frames_per_sec = _frames_per_sec(out)
    rows = [
        (
            stage["title"],
            f"{stage['seconds']:.0f}",
            frames_per_sec.get(stage["title"].split(":")[0], ""),
            f"{stage['peak_memory_gib']:.1f}",
        )
        for stage in stages
    ]
    return Section(
        title="Time and memory",
        text="Wall-clock seconds with start-up; frames per second without it, over all processes.",
        items=[Table(header=("stage", "seconds", "frames/s", "peak GiB"), rows=rows, caption="")],
    )


def _configuration_section(out: Path) -> Section:
    return Section(
        title="Configuration",
        text="As resolved from YAML and overrides. The same command with the same folder goes on from its checkpoint.",
        items=[
            Text((out / "world/run.yaml").read_text(), caption="world/run.yaml"),
            Text((out / "tokenizer/run.yaml").read_text(), caption="tokenizer/run.yaml"),
            Text((out / "world/environment.txt").read_text(), caption="environment"),
        ],
    )


def _frames_per_sec(out: Path) -> dict[str, str]:
    """Stage -> video frames a second: trained on, encoded or sampled."""
    found: dict[str, str] = {}
    world, tokenizer = (load_run(str(out / name / "run.yaml")) for name in ("world", "tokenizer"))
    for stage, folder, run in (
        ("tokenizer", "tokenizer", tokenizer),
        ("world model, second half", "world", world),
    ):
        steps = [r for r in read_metrics(out / folder / "metrics.jsonl") if "samples_per_sec" in r]
        samples_per_sec = float(np.median([record["samples_per_sec"] for record in steps[-10:]]))
        found[stage] = f"{samples_per_sec * run.data.num_frames:.0f}"  # pyright: ignore[reportAttributeAccessIssue]
    facts = json.loads((out / "samples/seed-0000.json").read_text())
    found["Video2World"] = f"{facts['num_frames'] / (facts['sampled_sec'] + facts['decoded_sec']):.0f}"
    return found


def _series(records: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(record["step"], record[name]) for record in records if name in record]


def _frames(video_3THW: Tensor) -> list[np.ndarray]:
    return [frame.numpy() for frame in video_3THW[:, ::2].permute(1, 2, 3, 0)]
