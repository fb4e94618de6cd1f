"""`cosmos-train report RUN`: how a run went, as a page, read from its folder alone.

Curves show the branch that counts: of steps that were rolled back and trained again, the last time.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av.error

from cosmos_data.errors import ClipError
from cosmos_data.readers.given_clips import whole_video
from cosmos_data.videos.video import BadVideoError, RgbConverter, read_frames
from cosmos_launch.cli.status import read_status
from cosmos_launch.pages.page import (
    Fact,
    FrameRow,
    FrameRows,
    Item,
    LossCurve,
    Mark,
    Report,
    Section,
    Table,
    Text,
    write_report,
)
from cosmos_launch.pages.run_records import Record, read_records, said
from cosmos_train.train.telling.rank_times import PHASES, RankTimes, read_rank_times

MAX_SAMPLES, MAX_FRAMES, MAX_RANKS = 6, 9, 16
"""Shown of the newest videos, of each of them, and of the ranks that are slow."""
MEASURED = (
    "samples_per_sec",
    "tokens_per_sec",
    "mfu",
    "tflops_per_gpu",
    "data_wait_share",
    "step_sec",
    "peak_host_memory_gib",
    "peak_gpu_memory_gib",
    "time",
    "step",
)
"""Values that are not of the model, with the phases; the rest are drawn as they come."""
YEAR_3000 = 32_503_680_000
"""In seconds since 1970."""
MEMORY = {"peak_host_memory_gib": "process", "peak_gpu_memory_gib": "GPU"}


def write_run_page(run_dir: Path, *, out: Path | None) -> int:
    """Write the page. Raises ConfigError where there is no run. Returns the exit code."""
    status, records = read_status(run_dir), read_records(run_dir)
    steps, events, marks = records.steps, records.events, _marks(records.events)
    report = Report(
        title=f"Run {run_dir.resolve().name}",
        summary=_facts(status, steps),
        sections=[
            _curves(steps, marks, num_rolled_back=records.num_rolled_back),
            _speed(steps, marks),
            *_ranks(read_rank_times(run_dir), events),
            *_samples(run_dir),
            _history(status, events),
            _configuration(run_dir),
        ],
    )
    print(write_report(out or run_dir / "report.html", report))
    return 0


def _facts(status: Record, steps: Sequence[Record]) -> list[Fact]:
    facts = [
        Fact("step", f"{status['step']:,} of {status['num_steps']:,}", status["state"]),
        Fact("starts", status["starts"], f"{len(status['crashes'])} crashes, {status['skipped_steps']} skipped steps"),
    ]
    if steps:
        last = steps[-1]
        speed = f"{last['step_sec']:.4g} s a step" if "step_sec" in last else ""
        if "loss" in last:
            facts.append(Fact("loss", last["loss"], f"at step {last['step']:,}"))
        if "samples_per_sec" in last:
            facts.append(Fact("samples/s", last["samples_per_sec"], speed))
        facts += _memory_facts(steps)
    if (slowest := status["slowest"]) is not None:
        told = (
            f"rank {slowest['rank']}: {slowest['lost_share']:.1%} of a step more than the median, in {slowest['phase']}"
        )
        facts.append(Fact("slowest host", slowest["host"], told))
    return facts


def _memory_facts(steps: Sequence[Record]) -> Iterator[Fact]:
    for name, what in MEMORY.items():
        found = [record[name] for record in steps if name in record]
        if found:
            yield Fact(f"peak memory of a {what}", f"{max(found):.2f} GiB", "of the rank with the most")


def _marks(events: Iterable[Record]) -> list[Mark]:
    """Restarts and failures, where they were."""
    marks = []
    for event in events:
        if event["event"] == "start" and event["step"] > 0:
            marks.append(Mark(event["step"], f"started again from {said(event, 'source')}, {said(event, 'layout')}"))
        elif event["event"] == "failed":
            marks.append(Mark(event["step"], f"failed: {said(event, 'error')}"))
    return marks


def _curves(steps: Sequence[Record], marks: list[Mark], *, num_rolled_back: int) -> Section:
    measured = {*MEASURED, *(f"{phase}_sec" for phase in PHASES)}
    names = dict.fromkeys(name for record in steps for name in record if name not in measured)
    first = [name for name in ("loss", "grad_norm", "lr") if name in names]
    order = [*first, *(name for name in names if name not in first)] or ["loss"]
    told = f"{num_rolled_back} logged steps do not count: the run went back to a checkpoint before them."
    curves: list[Item] = [_curve(steps, [name], name, marks) for name in order]
    return Section("Training", told if num_rolled_back else "", curves)


def _speed(steps: Sequence[Record], marks: list[Mark]) -> Section:
    phases = [f"{phase}_sec" for phase in PHASES]
    present = {name for record in steps for name in record}
    tokens = [_curve(steps, ["tokens_per_sec"], "tokens per second", marks)] if "tokens_per_sec" in present else []
    memory = [name for name in MEMORY if name in present]
    mfu = [_curve(steps, ["mfu"], "model FLOPs utilisation", marks)] if "mfu" in present else []
    return Section(
        "Speed and memory",
        "Phases are means over the ranks. Ranks wait for each other in backward, optimizer and save.",
        [
            _curve(steps, ["samples_per_sec"], "samples per second", marks),
            *tokens,
            *mfu,
            _curve(steps, phases, "seconds of a step", marks),
            _curve(steps, memory, "peak memory of the rank with the most, GiB", marks),
        ],
    )


def _curve(steps: Sequence[Record], names: Sequence[str], label: str, marks: list[Mark]) -> LossCurve:
    series = {name: [(record["step"], record[name]) for record in steps if name in record] for name in names}
    return LossCurve(series, marks, y_label=label)


def _ranks(times: RankTimes | None, events: Iterable[Record]) -> list[Section]:
    """Step time by rank and phase, the slowest hosts named; nothing of a run on one rank."""
    if times is None or len(times.hosts) == 1:
        return []
    own = times.own_sec()
    slow = sorted(range(len(own)), key=own.__getitem__, reverse=True)[:MAX_RANKS]
    noted = Counter(said(event, "host") for event in events if event["event"] == "straggler")
    hosts = [(host, seconds, noted[host]) for host, seconds in times.slowest_hosts()[:MAX_RANKS]]
    rows = [(rank, times.hosts[rank], *(times.phases[phase][rank] for phase in PHASES)) for rank in slow]
    return [
        Section(
            "Ranks",
            f"Up to step {times.step:,}, seconds of a step. A rank's own are data and forward, in which it does not "
            "wait for all others; the rank with the longest is whom the others wait for.",
            [
                Table(("host", "own seconds", "times it held up the others"), hosts, "The slowest hosts first."),
                Table(("rank", "host", *PHASES), rows, "The slowest ranks first."),
            ],
        )
    ]


def _samples(run_dir: Path) -> list[Section]:
    """The newest videos in RUN/samples."""
    paths = sorted((run_dir / "samples").rglob("*.mp4"), key=lambda path: path.stat().st_mtime)[-MAX_SAMPLES:]
    rows = []
    for path in paths:
        try:
            clip = whole_video(path)
            frames = list(read_frames(clip, start_frame=0, num_frames=clip.num_frames))
        except (BadVideoError, ClipError, av.error.FFmpegError):
            continue  # being written, or torn by a crash
        to_rgb = RgbConverter()
        chosen = frames[:: max(1, -(-len(frames) // MAX_FRAMES))]
        rows.append(FrameRow(str(path.relative_to(run_dir)), [to_rgb(frame) for frame in chosen]))
    return [Section("Samples", items=[FrameRows(rows, "The newest, from their first frame on.")])] if rows else []


def _history(status: Record, events: Sequence[Record]) -> Section:
    rows = []
    for event in events:
        if event["event"] != "straggler":
            told = [f"{name} {_short(value)}" for name, value in event.items() if name not in ("event", "time", "step")]
            rows.append((_when(event.get("time", 0)), event["event"], event["step"], ", ".join(told)))
    crashes = [(crash["host"], crash["rank"], crash["sentence"]) for crash in status["crashes"]]
    first = next((said(event, "error") for event in events if event["event"] == "failed"), None)
    told = crashes[0][2] if crashes else first
    items: list = [Table(("UTC", "what", "step", "details"), rows)]
    if status["damaged"]:
        items.insert(0, Table(("damaged checkpoint", "why"), list(status["damaged"].items())))
    if crashes:
        items.insert(0, Table(("host", "rank", "crash"), crashes, "What its jobs crashed of."))
    return Section("What happened", f"The first error: {told}" if told else "No error.", items)


def _when(seconds: float) -> str:
    """Empty of a time that is none, or that no calendar has."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if 0 < seconds < YEAR_3000 else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _configuration(run_dir: Path) -> Section:
    names = ("run.yaml", "environment.txt", "code.diff")
    files = [(name, run_dir / name) for name in names]
    return Section(
        "Configuration",
        items=[Text(path.read_text(errors="replace"), caption=name) for name, path in files if path.is_file()],
    )
