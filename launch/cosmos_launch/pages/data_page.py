"""`cosmos-train data stats`: what a manifest holds, as a page with plots."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cosmos_data.config import SIZES_PX
from cosmos_data.errors import ClipError
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.window import nearest_bucket
from cosmos_data.videos.video import RgbConverter, read_frames
from cosmos_launch.pages.contents import Bars, Charts, Fact, FrameRow, FrameRows, Report, Section, Table, Text
from cosmos_launch.pages.page import write_report

NUM_PICTURES = 8
NUM_BINS = 40


def stats(source: Path, *, out: Path) -> int:
    """Write the page. Returns the exit code."""
    manifest = Manifest.read(source)
    clips = list(manifest)
    hours = sum(clip.duration_sec for clip in clips) / 3600
    report = Report(
        title=f"Data: {source.name}",
        summary=[
            Fact("clips", len(clips), f"{sum(clip.split == 'heldout' for clip in clips)} held out"),
            Fact("hours", hours),
            Fact("frames", sum(clip.num_frames for clip in clips)),
            Fact("with a caption", _share(clips, lambda clip: bool(clip.caption or clip.captions))),
            Fact("with actions", _share(clips, lambda clip: clip.action is not None)),
            Fact("with a camera", _share(clips, lambda clip: clip.camera is not None)),
            Fact("views", ", ".join(str(n) for n in sorted({1 + len(clip.views) for clip in clips}))),
        ],
        sections=[
            Section("Pictures", items=[_pictures(clips)]),
            Section("Lengths and frame rates", items=[Charts(_histograms(clips))]),
            Section("Codecs", items=[_counts("codec", (f"{clip.codec} {clip.pixel_format}" for clip in clips))]),
            Section(
                "What pictures mean",
                items=[
                    _counts("shown otherwise than stored", (clip.treatment or "no" for clip in clips)),
                    _counts("colours", (_colours(clip) for clip in clips)),
                ],
            ),
            Section("Sizes", items=[_counts("size", (f"{clip.width_px}x{clip.height_px}" for clip in clips))]),
            Section(
                "Aspect buckets",
                "How many clips go to each bucket of data.buckets, and how many of those are smaller than it.",
                [_buckets(clips)],
            ),
            Section("Digest", items=[Text(manifest.digest)]),
        ],
    )
    print(f"{len(clips)} clips, {hours:.2f} hours -> {write_report(out, report)}")
    return 0


def _share(clips: list[Clip], holds) -> str:
    return f"{100 * sum(map(holds, clips)) / max(1, len(clips)):.0f} %"


def _pictures(clips: list[Clip]) -> FrameRows:
    """Show the middle frame of clips from all over the manifest, of those that can be decoded."""
    chosen = clips[:: max(1, len(clips) // NUM_PICTURES)][:NUM_PICTURES]
    rows, to_rgb = [], RgbConverter()
    for clip in chosen:
        try:
            [frame] = read_frames(clip, start_frame=clip.start_frame + clip.num_frames // 2, num_frames=1)
        except ClipError:
            continue  # the page describes what is there; `data check` names what is not
        rows.append(FrameRow(f"{clip.clip_id}: {clip.caption or 'no caption'}", [to_rgb(frame)]))
    return FrameRows(rows)


def _histograms(clips: list[Clip]) -> list[Bars]:
    return [
        _histogram("Lengths", (clip.num_frames for clip in clips), "frames of a clip"),
        _histogram("Frame rates", (round(clip.fps) for clip in clips), "frames per second, rounded"),
    ]


def _histogram(title: str, values: Iterable[int], label: str) -> Bars:
    """Count values in bins of equal width, which stand over their lower ends."""
    found = list(values)
    low, high = min(found, default=0), max(found, default=0)
    width = max(1, -(-(high - low + 1) // NUM_BINS))
    counts = Counter((value - low) // width for value in found)
    bars = [(low + k * width, counts[k]) for k in range((high - low) // width + 1)] if found else []
    return Bars(title, {"clips": bars}, x_label=label if width == 1 else f"{label}, in bins of {width}")


def _counts(name: str, values: Iterable[str]) -> Table:
    return Table((name, "clips"), [(value, count) for value, count in Counter(values).most_common(30)])


def _colours(clip: Clip) -> str:
    said = (clip.color_matrix, clip.primaries, clip.transfer, clip.color_range, clip.field_order)
    return ", ".join(word for word in said if word)


def _buckets(clips: list[Clip]) -> Table:
    rows = []
    for resolution, sizes in SIZES_PX.items():
        of_bucket = Counter(nearest_bucket(clip.height_px, clip.width_px, sizes) for clip in clips)
        for bucket, (height_px, width_px) in enumerate(sizes):
            smaller = sum(
                nearest_bucket(clip.height_px, clip.width_px, sizes) == bucket
                and (clip.height_px < height_px or clip.width_px < width_px)
                for clip in clips
            )
            rows.append((resolution, f"{width_px}x{height_px}", of_bucket[bucket], smaller))
    return Table(("data.buckets", "width x height", "clips", "of them smaller"), rows)
